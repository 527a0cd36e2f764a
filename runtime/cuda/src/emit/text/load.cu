// Eight activations of a token from column k, 0 beyond the last.
DEVICE void load_eight(const Arguments& a, int token, int k, float (&v)[8]) {
    const Element* row = (const Element*)a.x + (i64)token * a.cols;
    if (a.cols % 8 == 0 && k < a.cols) {
        alignas(16) Element e[8];
#pragma unroll
        for (int i = 0; i < (int)sizeof(Element) / 2; i++) {
            ((uint4*)e)[i] = ((const uint4*)(row + k))[i];
        }
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = load_element(e[i]);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = k + i < a.cols ? load_element(row[k + i]) : 0.f;
    }
}

DEVICE uint4 pack_eight(const float (&v)[8]) {
    u32 w[4];
#pragma unroll
    for (int i = 0; i < 4; i++) w[i] = f32_to_f16(v[2 * i]) | (u32)f32_to_f16(v[2 * i + 1]) << 16;
    return make_uint4(w[0], w[1], w[2], w[3]);
}

// The power of two that brings `greatest` to 2^14 .. 2^15, within what f32 has.
DEVICE float power_for(float greatest) {
    const u32 exponent = f32_to_bits(greatest) >> 23 & 255;
    if (exponent == 255) return 1.f;
    const u32 wanted = 268 - exponent;
    return bits_to_f32((wanted > 253 ? 253 : wanted) << 23);
}
