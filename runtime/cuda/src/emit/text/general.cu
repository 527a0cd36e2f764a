// Serves every description, without tensor cores: a warp has one row and four tokens, a lane one word of each plane.
constexpr int SIDE = 4;

KERNEL(NAME, 256, 2) {
    const int lane = threadIdx.x % 32, row = blockIdx.x * 8 + threadIdx.x / 32, token = blockIdx.y * SIDE;
    if (row >= a.rows) return;
    const int all_tiles = (a.cols + 255) / 256, in_tile = row % 16;
    const u32* const words = (const u32*)a.planes + (i64)(row / 16) * all_tiles * 128;
    const i64 map = (i64)(row / 16) * a.groups * 16 + 2 * (in_tile % 8) + in_tile / 8;
    float sum[SIDE] = {};
    // Lanes: four runs of eight columns, four words, two tiles.
    const int run = lane % 4, j = lane / 4 % 4;
    for (int tile = lane / 16; tile < all_tiles; tile += 2) {
        u32 word[PLANES];
        for (int p = 0; p < PLANES; p++)
            word[p] = words[(i64)p * a.plane_stride * 4 + (i64)tile * 128 + (4 * (in_tile % 8) + run) * 4 + j];
        for (int i = 0; i < 16; i++) {
            const int k = tile * 256 + 64 * j + 32 * (i / 8) + 8 * run + i % 8;
            if (k >= a.cols) continue;
            const int step = 2 * (i / 8) + i / 4 % 2, reg = in_tile / 8 + 2 * (i / 2 % 2);
            const int base = 4 * reg + step + 16 * (i % 2);
            u32 code = 0;
            for (int p = 0; p < PLANES; p++) code |= (word[p] >> ((base - p) & 31) & 1) << (7 - p);
            const i64 group = map + (GROUP == 0 ? 0 : k / (GROUP == 0 ? 1 : GROUP)) * 16;
            const float w = a.scale[group] * (level_of(code) - a.zero[group]);
            for (int n = 0; n < SIDE; n++) {
                if (token + n < a.tokens) sum[n] += w * load_element(((const Element*)a.x)[(i64)(token + n) * a.cols + k]);
            }
        }
    }
    for (int n = 0; n < SIDE; n++) {
        float v = sum[n];
        for (int by = 16; by > 0; by /= 2) v += shuffle_xor(v, by);
        if (lane == 0 && token + n < a.tokens) store_output(a, token + n, row, v);
    }
}
