typedef u16 Element;
constexpr int PARTS = 1; // columns of f16 that hold a token
DEVICE float load_element(Element e) { return bits_to_f32((u32)e << 16); }
DEVICE Element store_element(float f) { return f32_to_bf16(f); }
