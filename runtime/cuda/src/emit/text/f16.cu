typedef u16 Element;
constexpr int PARTS = 1; // columns of f16 that hold a token
DEVICE float load_element(Element e) { return f16_to_f32(e); }
DEVICE Element store_element(float f) { return f32_to_f16(f); }
