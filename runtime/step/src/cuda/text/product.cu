// c [batch, M, N] = a [M, K] b [K, N], both strided. A block makes BM x BN of c, a thread TM x TN of those.
KERNEL(NAME, 256, 1) {
    constexpr int ACROSS = BN / TN, DOWN = BM / TM, A_PITCH = BM + 4, B_PITCH = BN + 4;
    static_assert(ACROSS * DOWN == 256, "threads");
    DYNAMIC_SHARED(memory);
    float* const as = (float*)memory;
    float* const bs = as + BK * A_PITCH;
    const int across = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS;
    const i64 tiles = (N + BN - 1) / BN, m0 = blockIdx.x / tiles * BM, n0 = blockIdx.x % tiles * BN;
    for (i64 batch = blockIdx.y; batch < BATCH; batch += gridDim.y) {
        const float* const pa = (const float*)a.at[1] + A_START + A_OFFSET;
        const float* const pb = (const float*)a.at[2] + B_START + B_OFFSET;
        float c[TM][TN];
        for (int i = 0; i < TM; i++)
            for (int j = 0; j < TN; j++) c[i][j] = 0.f;
        for (i64 k0 = 0; k0 < K; k0 += BK) {
            for (int at = threadIdx.x; at < BM * BK; at += 256) {
                const int m = A_ALONG_K ? at / BK : at % BM, k = A_ALONG_K ? at % BK : at / BM;
                as[k * A_PITCH + m] = m0 + m < M && k0 + k < K ? pa[(m0 + m) * A_ROW + (k0 + k) * A_COL] : 0.f;
            }
            for (int at = threadIdx.x; at < BN * BK; at += 256) {
                const int n = B_ALONG_K ? at / BK : at % BN, k = B_ALONG_K ? at % BK : at / BN;
                bs[k * B_PITCH + n] = n0 + n < N && k0 + k < K ? pb[(k0 + k) * B_ROW + (n0 + n) * B_COL] : 0.f;
            }
            __syncthreads();
#pragma unroll
            for (int k = 0; k < BK; k++)
#pragma unroll
                for (int i = 0; i < TM; i++)
#pragma unroll
                    for (int j = 0; j < TN; j++)
                        c[i][j] = fmaf(as[k * A_PITCH + down + i * DOWN], bs[k * B_PITCH + across + j * ACROSS], c[i][j]);
            __syncthreads();
        }
        for (int i = 0; i < TM; i++)
            for (int j = 0; j < TN; j++) {
                const i64 m = m0 + down + i * DOWN, n = n0 + across + j * ACROSS;
                if (m < M && n < N) ((float*)a.at[0])[(batch * M + m) * N + n] = c[i][j];
            }
    }
}
