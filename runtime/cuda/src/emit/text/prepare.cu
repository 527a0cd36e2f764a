// Activations are laid out by a launch of its own: f16 columns, then the sums of their groups, then the tokens' powers.
constexpr int WARPS = 8;
constexpr int TILE_GROUPS = GROUP == 0 ? 0 : GROUP < 256 ? 256 / GROUP : 1;
constexpr int UNIT = GROUP == 0 || GROUP > 256 ? 256 : GROUP; // columns of a tile that share a scale

struct Prepared {
    u16* x;       // [columns, all tiles * 256]
    float* sums;  // [groups, columns]
    float* power; // [columns / PARTS]
    int columns;  // a multiple of 128
};

DEVICE Prepared prepared_of(const Arguments& a) {
    Prepared p;
    const i64 cols = (i64)((a.cols + 255) / 256) * 256;
    p.columns = (a.tokens * PARTS + 127) / 128 * 128;
    p.x = (u16*)a.prepared;
    p.sums = (float*)(p.x + p.columns * cols);
    p.power = p.sums + (i64)a.groups * p.columns;
    return p;
}

DEVICE float sum_of_warp(float v) {
#pragma unroll
    for (int by = 16; by > 0; by /= 2) v += shuffle_xor(v, by);
    return v;
}

DEVICE float greatest_of_warp(float v) {
#pragma unroll
    for (int by = 16; by > 0; by /= 2) v = fmaxf(v, shuffle_xor(v, by));
    return v;
}

// Eight activations from column 8 c: as they come, or in the order of a tensor core that reads shared memory itself, which
// is that of the weights: of each run of 32 the pairs of four lanes side by side.
DEVICE void store_piece(uint4* column, int c, uint4 v) {
    if (TENSOR_ORDER) {
        u32* const words = (u32*)column + c / 4 * 16 + c % 4;
        words[0] = v.x, words[4] = v.y, words[8] = v.z, words[12] = v.w;
    } else {
        column[c] = v;
    }
}

// One block: one token, or a column of zeros beyond the last.
KERNEL(NAME_prepare, 256, 4) {
    DYNAMIC_SHARED(shared);
    const Prepared p = prepared_of(a);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, token = blockIdx.x;
    const int pieces = (a.cols + 255) / 256 * 32, blocks = pieces / 4;
    float* const greatest = (float*)shared; // [warps]
    float* const sums = greatest + WARPS;   // [parts, 32 columns of x]
    float power = 1.f;
    if (SCALED) {
        float most_of_thread = 0.f;
        for (int c = thread; c < pieces && token < a.tokens; c += 256) {
            float v[8];
            load_eight(a, token, 8 * c, v);
#pragma unroll
            for (int i = 0; i < 8; i++) most_of_thread = fmaxf(most_of_thread, fabsf(v[i]));
        }
        const float most_of_warp = greatest_of_warp(most_of_thread);
        if (lane == 0) greatest[warp] = most_of_warp;
        __syncthreads();
        float most = 0.f;
        for (int w = 0; w < WARPS; w++) most = fmaxf(most, greatest[w]);
        power = power_for(most);
        if (thread == 0) p.power[token] = power;
    }
    for (int c = thread; c < pieces; c += 256) {
        float v[8] = {};
        if (token < a.tokens) load_eight(a, token, 8 * c, v);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] *= power;
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            float sum = 0.f;
#pragma unroll
            for (int i = 0; i < 8; i++) sum += f16_to_f32(f32_to_f16(v[i]));
            store_piece((uint4*)p.x + (i64)(token * PARTS + part) * pieces, c, pack_eight(v));
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] -= f16_to_f32(f32_to_f16(v[i]));
            sum += shuffle_xor(sum, 1);
            sum += shuffle_xor(sum, 2);
            if (lane % 4 == 0) sums[part * blocks + c / 4] = sum;
        }
    }
    __syncthreads();
    const int size = GROUP == 0 ? blocks : GROUP / 32;
    for (int i = warp; i < a.groups * PARTS; i += WARPS) {
        const int group = i / PARTS, part = i % PARTS;
        float sum = 0.f;
        for (int k = group * size + lane; k < (group + 1) * size && k < blocks; k += 32) sum += sums[part * blocks + k];
        sum = sum_of_warp(sum);
        if (lane == 0) p.sums[(i64)group * p.columns + token * PARTS + part] = sum;
    }
}

// Scales the sums of 16 rows, adds what the indices' centre and the zeros add, and stores. `column`: of this lane's first two.
DEVICE void finish(const Arguments& a, const Prepared& p, float (&sum)[TOKEN_TILES][4], int tile, int column) {
    const int lane = threadIdx.x % 32;
    if (tile * 16 >= a.rows) return;
    const float2* const scale = (const float2*)a.scale + (i64)tile * a.groups * 8 + lane / 4;
    const float2* const zero = (const float2*)a.zero + (i64)tile * a.groups * 8 + lane / 4;
    const float2 whole = GROUP == 0 ? scale[0] : float2{1.f, 1.f};
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) sum[n][i] *= STEP * (i < 2 ? whole.x : whole.y);
    }
    for (int group = 0; group < a.groups; group++) {
        const float2 s = scale[group * 8], z = zero[group * 8];
        const float up = s.x * (CENTRE - z.x), down = s.y * (CENTRE - z.y);
#pragma unroll
        for (int n = 0; n < TOKEN_TILES; n++) {
            const float2 of_x = *(const float2*)&p.sums[(i64)group * p.columns + column + 8 * n];
            sum[n][0] += up * of_x.x;
            sum[n][1] += up * of_x.y;
            sum[n][2] += down * of_x.x;
            sum[n][3] += down * of_x.y;
        }
    }
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
#pragma unroll
        for (int i = 0; i < 4; i += PARTS) {
            const int row = tile * 16 + lane / 4 + 8 * (i / 2), token = (column + 8 * n + i % 2) / PARTS;
            if (row >= a.rows || token >= a.tokens) continue;
            float v = sum[n][i] + (PARTS == 2 ? sum[n][i + PARTS - 1] : 0.f);
            if (SCALED) v *= bits_to_f32((254u << 23) - f32_to_bits(p.power[token]));
            store_output(a, token, row, v);
        }
    }
}
