typedef float Element;
constexpr int PARTS = 2; // columns of f16 that hold a token
DEVICE float load_element(Element e) { return e; }
DEVICE Element store_element(float f) { return f; }
