// Rows of a table [ROWS, INNER] at the places that integers say, negative ones from the end.
KERNEL(NAME, 256, 1) {
    const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
    if (i >= COUNT) return;
    i64 row = ((const i64*)a.at[2])[i / INNER];
    if (row < 0) row += ROWS;
    if (row < 0 || row >= ROWS) {
        *(u32*)a.at[3] = 1;
        row = 0;
    }
    ((float*)a.at[0])[i] = ((const float*)a.at[1])[row * INNER + i % INNER];
}
