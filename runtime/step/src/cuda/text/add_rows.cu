// A table [ROWS, INNER] plus UPDATES rows at the places that integers say. A thread has CHUNK places of a column for itself, so
// that the order of additions is that of the updates.
KERNEL(NAME, 256, 1) {
    const u64 thread = (u64)blockIdx.x * 256 + threadIdx.x;
    const i64 first = thread / INNER * CHUNK, column = thread % INNER;
    if (first >= ROWS) return;
    const i64 end = first + CHUNK < ROWS ? first + CHUNK : ROWS;
    float* const to = (float*)a.at[0];
    for (i64 row = first; row < end; row++) to[row * INNER + column] = TABLE;
    for (i64 update = 0; update < UPDATES; update++) {
        i64 row = ((const i64*)a.at[2])[update];
        if (row < 0) row += ROWS;
        if (row < 0 || row >= ROWS) *(u32*)a.at[4] = 1;
        if (row >= first && row < end) to[row * INNER + column] += ((const float*)a.at[3])[update * INNER + column];
    }
}
