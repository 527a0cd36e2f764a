constexpr int ROW_TILES = 2, STAGES = 4;
constexpr int BLOCK_COLUMNS = 2 * 8 * TOKEN_TILES; // two warps side by side; four along the rows

DEVICE void load_words(u32 (&w)[ROW_TILES][PLANES], const Arguments& a, const int (&row_tile)[ROW_TILES], int slice) {
    const int all_tiles = (a.cols + 255) / 256;
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
        const uint4* const tile = a.planes + ((i64)row_tile[r] * all_tiles + slice / 4) * 32 + threadIdx.x % 32;
#pragma unroll
        for (int p = 0; p < PLANES; p++) w[r][p] = ((const u32*)(tile + p * a.plane_stride))[slice % 4];
    }
}

// One block: 128 rows and BLOCK_COLUMNS columns of activations, in slices of 64 columns of the weight.
KERNEL(NAME, 256, 1) {
    DYNAMIC_SHARED(shared);
    const Prepared p = prepared_of(a);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int all_tiles = (a.cols + 255) / 256, slices = 4 * all_tiles;
    const int first_column = blockIdx.y * BLOCK_COLUMNS;
    const uint4* const x = (const uint4*)p.x + (i64)first_column * all_tiles * 32;
    const int last_tile = (a.rows - 1) / 16;
    int row_tile[ROW_TILES];
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
        const int tile = blockIdx.x * 8 + warp / 2 * ROW_TILES + r;
        row_tile[r] = tile < last_tile ? tile : last_tile;
    }

    // A slice of x: eight pieces of 16 bytes a column. Odd columns have their halves swapped, for the banks.
    auto fetch = [&](int slice) {
        if (slice < slices) {
            uint4* const stage = shared + slice % STAGES * (BLOCK_COLUMNS * 8);
            for (int i = thread; i < BLOCK_COLUMNS * 8; i += 256) {
                const int column = i / 8, piece = i % 8;
                copy_async(&stage[column * 8 + (piece ^ column % 2 * 4)], &x[(i64)column * all_tiles * 32 + slice * 8 + piece]);
            }
        }
        copy_commit();
    };
    for (int s = 0; s < STAGES - 1; s++) fetch(s);

    u32 words[ROW_TILES][PLANES], next_words[ROW_TILES][PLANES];
    load_words(words, a, row_tile, 0);
    float sum[ROW_TILES][TOKEN_TILES][4] = {};
    float part[ROW_TILES][TOKEN_TILES][4];
    const int column = warp % 2 * 8 * TOKEN_TILES + lane / 4, swap = lane / 4 % 2 * 4;
    for (int tile = 0; tile < all_tiles; tile++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int slice = 4 * tile + j;
            copy_wait<STAGES - 2>();
            __syncthreads();
            fetch(slice + STAGES - 1);
            if (slice + 1 < slices) load_words(next_words, a, row_tile, slice + 1);
            u32 pairs[ROW_TILES][16];
#pragma unroll
            for (int r = 0; r < ROW_TILES; r++) select_pairs(words[r], pairs[r]);
            const uint4* const stage = shared + j % STAGES * (BLOCK_COLUMNS * 8) + column * 8;
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int n = 0; n < TOKEN_TILES; n++) {
                    const uint4 b = stage[n * 64 + ((4 * half + lane % 4) ^ swap)];
#pragma unroll
                    for (int r = 0; r < ROW_TILES; r++) {
                        const u32(&h)[16] = pairs[r];
                        const u32 w0[4] = {h[2 * half], h[2 * half + 4], h[2 * half + 8], h[2 * half + 12]};
                        const u32 w1[4] = {h[2 * half + 1], h[2 * half + 5], h[2 * half + 9], h[2 * half + 13]};
                        if (GROUP == 0) {
                            multiply_add(sum[r][n], w0, b.x, b.y);
                            multiply_add(sum[r][n], w1, b.z, b.w);
                        } else {
                            if ((64 * j + 32 * half) % UNIT == 0) multiply(part[r][n], w0, b.x, b.y);
                            else multiply_add(part[r][n], w0, b.x, b.y);
                            multiply_add(part[r][n], w1, b.z, b.w);
                        }
                    }
                }
                if (GROUP != 0 && (64 * j + 32 * half + 32) % UNIT == 0) {
                    const int group = GROUP <= 256 ? tile * TILE_GROUPS + (64 * j + 32 * half) / UNIT : tile / (GROUP <= 256 ? 1 : GROUP / 256);
#pragma unroll
                    for (int r = 0; r < ROW_TILES; r++) {
                        const float2 s = ((const float2*)a.scale)[((i64)row_tile[r] * a.groups + group) * 8 + lane / 4];
#pragma unroll
                        for (int n = 0; n < TOKEN_TILES; n++) {
#pragma unroll
                            for (int i = 0; i < 4; i++) sum[r][n][i] += (i < 2 ? s.x : s.y) * part[r][n][i];
                        }
                    }
                }
            }
#pragma unroll
            for (int r = 0; r < ROW_TILES; r++) {
#pragma unroll
                for (int q = 0; q < PLANES; q++) words[r][q] = next_words[r][q];
            }
        }
    }

    const int pair = first_column + warp % 2 * 8 * TOKEN_TILES + 2 * (lane % 4);
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) finish(a, p, sum[r], blockIdx.x * 8 + warp / 2 * ROW_TILES + r, pair);
}
