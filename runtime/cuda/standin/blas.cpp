// Stands in for libcublas in tests: the functions that mqc-cuda calls, plainly, on the memory and the stream of the stand-in
// for libcuda.
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

#include <functional>

typedef int Status;
enum { OK = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13 };
struct Handle {
    void* stream = nullptr;
    void* workspace = nullptr;
};

static void* of_driver(const char* name) {
    void* const driver = dlopen("libcuda.so", RTLD_NOW | RTLD_NOLOAD);
    return driver ? dlsym(driver, name) : nullptr;
}

// Element (i, j) of what op makes of a column-major matrix.
static float element(const float* matrix, int op, int64_t row, int64_t i, int64_t j) {
    return op ? matrix[i * row + j] : matrix[j * row + i];
}
// Elements from the first to the last of a matrix.
static int64_t extent(int op, int64_t row, int64_t rows, int64_t cols) {
    const int64_t lines = op ? rows : cols, length = op ? cols : rows;
    return (lines - 1) * row + length;
}

extern "C" {
Status cublasCreate_v2(Handle** handle) {
    if (getenv("FAKE_CUBLAS_BROKEN")) return 1;
    return *handle = new Handle, OK;
}
Status cublasDestroy_v2(Handle* handle) { return delete handle, OK; }
Status cublasSetStream_v2(Handle* handle, void* stream) { return handle->stream = stream, OK; }
Status cublasSetWorkspace_v2(Handle* handle, void* workspace, size_t bytes) {
    return handle->workspace = workspace, (uintptr_t)workspace % 256 || bytes < 1 << 20 ? INVALID_VALUE : OK;
}
Status cublasSgemmStridedBatched(Handle* handle, int op_a, int op_b, int m, int n, int k, const float* alpha, const float* a,
                                 int a_row, long long a_step, const float* b, int b_row, long long b_step, const float* beta,
                                 float* c, int c_row, long long c_step, int batches) {
    auto inside = (bool (*)(uint64_t, size_t))of_driver("standin_inside");
    auto put = (void (*)(const std::function<void()>*))of_driver("standin_put");
    if (!inside || !put || !handle->stream || !handle->workspace) return EXECUTION_FAILED;
    if (m < 1 || n < 1 || k < 1 || a_row < (op_a ? k : m) || b_row < (op_b ? n : k) || c_row < m) return INVALID_VALUE;
    const int64_t last = batches - 1;
    const bool fits = inside((uint64_t)a, 4 * (last * a_step + extent(op_a, a_row, m, k))) &&
                      inside((uint64_t)b, 4 * (last * b_step + extent(op_b, b_row, k, n))) &&
                      inside((uint64_t)c, 4 * (last * c_step + extent(0, c_row, m, n)));
    if (!fits) return EXECUTION_FAILED;
    const float by = *alpha, keep = *beta;
    const std::function<void()> work = [=] {
        for (int64_t batch = 0; batch < batches; batch++)
            for (int64_t j = 0; j < n; j++)
                for (int64_t i = 0; i < m; i++) {
                    float sum = 0;
                    for (int64_t l = 0; l < k; l++)
                        sum += element(a + batch * a_step, op_a, a_row, i, l) * element(b + batch * b_step, op_b, b_row, l, j);
                    float& to = c[batch * c_step + j * c_row + i];
                    to = by * sum + (keep ? keep * to : 0);
                }
    };
    return put(&work), OK;
}
}
