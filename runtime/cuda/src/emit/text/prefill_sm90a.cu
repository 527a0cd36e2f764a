constexpr int STAGES = 4;
constexpr int STEPS = UNIT == 32 ? 2 : 4; // products of 16 columns between two waits

DEVICE void load_words(u32 (&w)[PLANES], const uint4* tiles, i64 plane_stride, int slice) {
    const uint4* const tile = tiles + slice / 4 * 32;
#pragma unroll
    for (int p = 0; p < PLANES; p++) w[p] = ((const u32*)(tile + p * plane_stride))[slice % 4];
}

// One block: 128 rows, 16 a warp, and 128 columns of activations, in slices of 64 columns of the weight. While the tensor
// cores work on a slice the next one's weights are made.
KERNEL(NAME, 256, 1) {
    DYNAMIC_SHARED(unaligned);
    uint4* const shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024 / 16;
    const Prepared p = prepared_of(a);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int all_tiles = (a.cols + 255) / 256, slices = 4 * all_tiles;
    const int first_column = blockIdx.y * 128;
    const uint4* const x = (const uint4*)p.x + (i64)first_column * all_tiles * 32;
    const int last_tile = (a.rows - 1) / 16, wanted = blockIdx.x * 8 + warp;
    const int row_tile = wanted < last_tile ? wanted : last_tile;
    const uint4* const tiles = a.planes + (i64)row_tile * all_tiles * 32 + lane;
    const float2* const scale = (const float2*)a.scale + (i64)row_tile * a.groups * 8 + lane / 4;

    auto fetch = [&](int slice) {
        if (slice < slices) {
            uint4* const stage = shared + slice % STAGES * (128 * 8);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int column = thread / 8 + 32 * i, piece = thread % 8;
                copy_async(&stage[column * 8 + (piece ^ column % 8)], &x[(i64)column * all_tiles * 32 + slice * 8 + piece]);
            }
        }
        copy_commit();
    };
    for (int s = 0; s < STAGES - 1; s++) fetch(s);

    u32 words[PLANES], pairs[2][16];
    load_words(words, tiles, a.plane_stride, 0);
    select_pairs(words, pairs[0]);
    load_words(words, tiles, a.plane_stride, 1);
    float sum[16][4] = {}, part[16][4];
    float(&of_group)[16][4] = GROUP == 0 ? sum : part;
    for (int tile = 0; tile < all_tiles; tile++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int slice = 4 * tile + j;
            copy_wait<STAGES - 2>();
            shared_fence();
            __syncthreads();
            fetch(slice + STAGES - 1);
            const u32(&h)[16] = pairs[j % 2];
            const u64 b = describe(shared + j % STAGES * (128 * 8));
#pragma unroll
            for (int first = 0; first < 4; first += STEPS) {
                const int k = 64 * j + 16 * first;
                group_fence();
#pragma unroll
                for (int s = first; s < first + STEPS; s++) {
                    const int add = GROUP == 0 || (64 * j + 16 * s) % UNIT != 0;
                    group_multiply_add(of_group, h[s], h[s + 4], h[s + 8], h[s + 12], b + 2 * s, add);
                }
                group_commit();
                if (first + STEPS == 4) {
                    if (slice + 1 < slices) select_pairs(words, pairs[(j + 1) % 2]);
                    if (slice + 2 < slices) load_words(words, tiles, a.plane_stride, slice + 2);
                }
                group_wait(of_group);
                if (GROUP != 0 && (k + 16 * STEPS) % UNIT == 0) {
                    const int group = GROUP <= 256 ? tile * TILE_GROUPS + k / UNIT : tile / (GROUP <= 256 ? 1 : GROUP / 256);
                    const float2 s = scale[group * 8];
#pragma unroll
                    for (int n = 0; n < 16; n++) {
#pragma unroll
                        for (int i = 0; i < 4; i++) sum[n][i] += (i < 2 ? s.x : s.y) * part[n][i];
                    }
                }
            }
        }
    }
    finish(a, p, sum, wanted, first_column + 2 * (lane % 4));
}
