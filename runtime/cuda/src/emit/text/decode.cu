// One block: 16 rows, a range of the columns, all tokens. Its warps take turns at tiles of 256 columns and add up.
constexpr int WARPS = 8;
constexpr int COLUMNS = 8 * TOKEN_TILES;
constexpr int TILE_GROUPS = GROUP == 0 ? 0 : GROUP < 256 ? 256 / GROUP : 1;
constexpr int UNIT = GROUP == 0 || GROUP > 256 ? 256 : GROUP; // columns of a tile that share a scale

DEVICE int group_of(int tile) { return GROUP == 0 ? 0 : GROUP < 256 ? tile * TILE_GROUPS : tile / (GROUP < 256 ? 1 : GROUP / 256); }

// `at`: of this lane in plane 0.
DEVICE void load_tile(uint4 (&q)[PLANES], const uint4* at, i64 plane_stride) {
#pragma unroll
    for (int p = 0; p < PLANES; p++) q[p] = load_once(at + p * plane_stride);
}

// `at`: of this lane's two rows.
DEVICE void load_scales(float2 (&s)[TILE_GROUPS + 1], const float2* at) {
#pragma unroll
    for (int i = 0; i < TILE_GROUPS; i++) s[i] = at[i * 8];
}

// sum += indices of a tile times the activations of its columns.
DEVICE void multiply_tile(float (&sum)[TOKEN_TILES][4], const uint4 (&q)[PLANES], const float2 (&s)[TILE_GROUPS + 1],
                          const uint4* const (&column)[TOKEN_TILES], int at) {
    float part[TOKEN_TILES][4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        u32 planes[PLANES], pairs[16];
#pragma unroll
        for (int p = 0; p < PLANES; p++) planes[p] = j == 0 ? q[p].x : j == 1 ? q[p].y : j == 2 ? q[p].z : q[p].w;
        select_pairs(planes, pairs);
#pragma unroll
        for (int n = 0; n < TOKEN_TILES; n++) {
            const uint4 x0 = column[n][at * 32 + j * 8], x1 = column[n][at * 32 + j * 8 + 4];
            const u32 b[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
#pragma unroll
            for (int step = 0; step < 4; step++) {
                const u32 w[4] = {pairs[step], pairs[step + 4], pairs[step + 8], pairs[step + 12]};
                const int k = 64 * j + 16 * step;
                if (GROUP == 0) {
                    multiply_add(sum[n], w, b[2 * step], b[2 * step + 1]);
                } else {
                    if (k % UNIT == 0) multiply(part[n], w, b[2 * step], b[2 * step + 1]);
                    else multiply_add(part[n], w, b[2 * step], b[2 * step + 1]);
                    if ((k + 16) % UNIT == 0) {
                        const float2 pair = s[k / UNIT];
#pragma unroll
                        for (int i = 0; i < 4; i++) sum[n][i] += (i < 2 ? pair.x : pair.y) * part[n][i];
                    }
                }
            }
        }
    }
}

DEVICE float greatest_of_warp(float v) {
#pragma unroll
    for (int by = 16; by > 0; by /= 2) v = fmaxf(v, shuffle_xor(v, by));
    return v;
}

KERNEL(NAME, 256, BLOCKS) {
    DYNAMIC_SHARED(shared);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int all_tiles = (a.cols + 255) / 256;
    const int most = (all_tiles + gridDim.y - 1) / gridDim.y;
    const int first = blockIdx.y * most;
    const int tiles = all_tiles - first < most ? all_tiles - first : most;
    const int stride = 32 * most + 4; // uint4 of a column of x: two neighbours lie in different banks
    uint4* const x = shared;
    float* const total = (float*)(x + a.tokens * PARTS * stride); // [warps, 16, columns]
    float* const power = total + WARPS * 16 * COLUMNS;            // [tokens]
    float* const greatest = power + a.tokens;                     // [warps, tokens]
    float* const sums = greatest + WARPS * a.tokens;              // [32 columns of x, tokens]

    // The first weights are on their way while activations are laid out.
    const uint4* source = a.planes + ((i64)blockIdx.x * all_tiles + first + warp) * 32 + lane;
    const float* const scale = a.scale + (i64)blockIdx.x * a.groups * 16;
    const float* const zero = a.zero + (i64)blockIdx.x * a.groups * 16;
    const float2* const scale_pairs = (const float2*)scale + lane / 4;
    uint4 even[PLANES], odd[PLANES];
    float2 scale_even[TILE_GROUPS + 1], of_odd[TILE_GROUPS + 1];
    float2(&scale_odd)[TILE_GROUPS + 1] = SCALES_AHEAD ? of_odd : scale_even;
    if (warp < tiles) {
        load_tile(even, source, a.plane_stride);
        if (SCALES_AHEAD) load_scales(scale_even, scale_pairs + group_of(first + warp) * 8);
    }
    if (warp + WARPS < tiles) {
        load_tile(odd, source + WARPS * 32, a.plane_stride);
        if (SCALES_AHEAD) load_scales(scale_odd, scale_pairs + group_of(first + warp + WARPS) * 8);
    }

    if (SCALED) {
        for (int token = 0; token < a.tokens; token++) {
            float most_of_thread = 0.f;
            for (int c = thread; c < tiles * 32; c += 256) {
                float v[8];
                load_eight(a, token, first * 256 + 8 * c, v);
#pragma unroll
                for (int i = 0; i < 8; i++) most_of_thread = fmaxf(most_of_thread, fabsf(v[i]));
            }
            const float most_of_warp = greatest_of_warp(most_of_thread);
            if (lane == 0) greatest[warp * a.tokens + token] = most_of_warp;
        }
        __syncthreads();
        if (thread < a.tokens) {
            float v = 0.f;
            for (int w = 0; w < WARPS; w++) v = fmaxf(v, greatest[w * a.tokens + thread]);
            power[thread] = power_for(v);
        }
        __syncthreads();
    }
    for (int token = 0; token < a.tokens; token++) {
        // Whole warps leave the loop: 32 pieces are a tile.
        for (int c = thread; c < tiles * 32; c += 256) {
            float v[8], sum = 0.f;
            load_eight(a, token, first * 256 + 8 * c, v);
            if (SCALED) {
#pragma unroll
                for (int i = 0; i < 8; i++) v[i] *= power[token];
            }
#pragma unroll
            for (int i = 0; i < 8; i++) sum += v[i];
            x[token * PARTS * stride + c] = pack_eight(v);
            if (PARTS == 2) {
#pragma unroll
                for (int i = 0; i < 8; i++) v[i] -= f16_to_f32(f32_to_f16(v[i]));
                x[(token * PARTS + 1) * stride + c] = pack_eight(v);
            }
            sum += shuffle_xor(sum, 1);
            sum += shuffle_xor(sum, 2);
            if (lane % 4 == 0) sums[c / 4 * a.tokens + token] = sum;
        }
    }
    __syncthreads();

    // What the indices' centre and the zeros add: a coefficient of the row and group times the sum of its activations.
    const int slot = lane % 16, row_of_slot = slot / 2 + 8 * (slot % 2);
    for (int token = 0; token < a.tokens; token++) {
        float v = 0.f;
        for (int unit = thread / 16; unit < tiles * (256 / UNIT); unit += 16) {
            const int group = group_of(first + unit / (256 / UNIT)) + (TILE_GROUPS > 1 ? unit % (256 / UNIT) : 0);
            float sum = 0.f;
#pragma unroll
            for (int i = 0; i < UNIT / 32; i++) sum += sums[(unit * (UNIT / 32) + i) * a.tokens + token];
            v += scale[group * 16 + slot] * (CENTRE - zero[group * 16 + slot]) * sum;
        }
        v += shuffle_xor(v, 16);
        if (lane < 16) {
#pragma unroll
            for (int part = 0; part < PARTS; part++)
                total[(warp * 16 + row_of_slot) * COLUMNS + token * PARTS + part] = part == 0 ? v : 0.f;
        }
    }

    const uint4* column[TOKEN_TILES];
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
        const int c = 8 * n + lane / 4;
        column[n] = x + (c < a.tokens * PARTS ? c : 0) * stride + lane % 4;
    }
    float sum[TOKEN_TILES][4] = {};
    // Two tiles at a time: the next but one is loaded where the last was, so that nothing is copied.
    for (int tile = warp; tile < tiles; tile += 2 * WARPS, source += 2 * WARPS * 32) {
        if (!SCALES_AHEAD) load_scales(scale_even, scale_pairs + group_of(first + tile) * 8);
        multiply_tile(sum, even, scale_even, column, tile);
        if (tile + 2 * WARPS < tiles) {
            load_tile(even, source + 2 * WARPS * 32, a.plane_stride);
            if (SCALES_AHEAD) load_scales(scale_even, scale_pairs + group_of(first + tile + 2 * WARPS) * 8);
        }
        if (tile + WARPS >= tiles) break;
        if (!SCALES_AHEAD) load_scales(scale_odd, scale_pairs + group_of(first + tile + WARPS) * 8);
        multiply_tile(sum, odd, scale_odd, column, tile + WARPS);
        if (tile + 3 * WARPS < tiles) {
            load_tile(odd, source + 3 * WARPS * 32, a.plane_stride);
            if (SCALES_AHEAD) load_scales(scale_odd, scale_pairs + group_of(first + tile + 3 * WARPS) * 8);
        }
    }
    __syncthreads();

#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + 8 * (i / 2), c = 8 * n + 2 * (lane % 4) + i % 2;
            const float factor = GROUP == 0 ? STEP * scale[lane / 4 * 2 + i / 2] : STEP;
            if (c < a.tokens * PARTS) total[(warp * 16 + row) * COLUMNS + c] += factor * sum[n][i];
        }
    }
    __syncthreads();

    for (int i = thread; i < 16 * a.tokens; i += 256) {
        const int in_tile = i % 16, row = blockIdx.x * 16 + in_tile, token = i / 16;
        float v = 0.f;
        for (int w = 0; w < WARPS; w++) {
#pragma unroll
            for (int part = 0; part < PARTS; part++) v += total[(w * 16 + in_tile) * COLUMNS + token * PARTS + part];
        }
        if (SCALED) v *= bits_to_f32((254u << 23) - f32_to_bits(power[token])); // one over a power of two
        if (row >= a.rows) continue;
        if (gridDim.y == 1) store_output(a, token, row, v);
        else a.partial[((i64)blockIdx.y * a.tokens + token) * a.rows + row] = v;
    }
    if (gridDim.y > 1) {
        // The last block of these rows adds up the ranges, always in the same order.
        int* const last = (int*)total;
        __threadfence();
        __syncthreads();
        if (thread == 0) *last = atomicAdd(&a.tickets[blockIdx.x], 1u) == gridDim.y - 1;
        __syncthreads();
        if (!*last) return;
        __threadfence();
        for (int i = thread; i < 16 * a.tokens; i += 256) {
            const int row = blockIdx.x * 16 + i % 16, token = i / 16;
            if (row >= a.rows) continue;
            float v = 0.f;
            for (int s = 0; s < gridDim.y; s++) v += ((volatile const float*)a.partial)[((i64)s * a.tokens + token) * a.rows + row];
            store_output(a, token, row, v);
        }
        if (thread == 0) a.tickets[blockIdx.x] = 0;
    }
}
