// Of COUNT elements every CHUNK combined, by a block each.
KERNEL(NAME, 256, 1) {
    DYNAMIC_SHARED(memory);
    const u64 first = (u64)blockIdx.x * CHUNK;
    const u64 end = first + CHUNK < COUNT ? first + CHUNK : COUNT;
    const float* const from = (const float*)a.at[1];
    float v = NEUTRAL;
    for (u64 i = first + threadIdx.x; i < end; i += 256) v = PAIR(v, from[i]);
    v = REDUCE(v, (float*)memory, true);
    if (threadIdx.x == 0) ((float*)a.at[0])[blockIdx.x] = v;
}
