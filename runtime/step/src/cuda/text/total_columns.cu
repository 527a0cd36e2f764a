// Of a matrix [ROWS, COLUMNS] every column of every CHUNK rows combined.
KERNEL(NAME, 256, 1) {
    const u64 thread = (u64)blockIdx.x * 256 + threadIdx.x;
    const u64 column = thread % COLUMNS, first = thread / COLUMNS * CHUNK;
    if (first >= ROWS) return;
    const u64 end = first + CHUNK < ROWS ? first + CHUNK : ROWS;
    const float* const from = (const float*)a.at[1];
    float v = from[first * COLUMNS + column];
    for (u64 row = first + 1; row < end; row++) v = PAIR(v, from[row * COLUMNS + column]);
    ((float*)a.at[0])[thread] = v;
}
