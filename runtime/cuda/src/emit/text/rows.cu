// Rows of a weight as floats, a thread an element: those that x names as i64, or all where it is 0. A name out of range
// leaves 1 in the ticket.
KERNEL(NAME, 256, 1) {
    const i64 i = (i64)blockIdx.x * 256 + threadIdx.x;
    const int token = (int)(i / a.cols), k = (int)(i % a.cols);
    if (i / a.cols >= a.tokens) return;
    i64 row = token;
    if (a.x) {
        row = ((const i64*)a.x)[token];
        if (row < 0) row += a.rows;
    }
    if (row < 0 || row >= a.rows) {
        if (a.tickets) *a.tickets = 1;
        return;
    }
    const int all_tiles = (a.cols + 255) / 256, in_tile = (int)(row % 16);
    const int j = k % 256 / 64, run = k % 32 / 8, at = k % 8;
    const u32* const words =
        (const u32*)a.planes + (row / 16 * all_tiles + k / 256) * 128 + (4 * (in_tile % 8) + run) * 4 + j;
    const int step = 2 * (k % 64 / 32) + at / 4, reg = in_tile / 8 + 2 * (at / 2 % 2);
    const int base = 4 * reg + step + 16 * (at % 2);
    u32 code = 0;
    for (int p = 0; p < PLANES; p++) code |= (words[(i64)p * a.plane_stride * 4] >> ((base - p) & 31) & 1) << (7 - p);
    const i64 map = row / 16 * a.groups * 16 + 2 * (in_tile % 8) + in_tile / 8;
    const i64 group = map + (GROUP == 0 ? 0 : k / (GROUP == 0 ? 1 : GROUP)) * 16;
    ((float*)a.y)[i] = a.scale[group] * (level_of(code) - a.zero[group]);
}
