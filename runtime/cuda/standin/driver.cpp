// Stands in for libcuda in tests. Memory is the host's, each piece before a page that nobody may touch; a module is a shared
// object with kernels on the shim, its image the object's path. What the device is comes from the environment.
#include <dlfcn.h>

#include <functional>
#include <map>
#include <string>

#include "runner.h"

typedef int Result;
typedef uint64_t Address;
struct Kernel {
    void (*launch)(const void*, unsigned, unsigned, unsigned, unsigned);
    size_t bytes; // of its arguments
};
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };

static int setting(const char* name, int otherwise) {
    const char* const value = getenv(name);
    return value ? atoi(value) : otherwise;
}

static std::map<Address, size_t> pieces;
static size_t used() {
    size_t sum = 0;
    for (auto& piece : pieces) sum += piece.second;
    return sum;
}
static size_t total() { return setting("FAKE_MEMORY", 1 << 30); }
// Whether a range lies in one piece.
static bool inside(Address at, size_t bytes) {
    auto piece = pieces.upper_bound(at);
    if (piece == pieces.begin()) return false;
    --piece;
    return at + bytes <= piece->first + piece->second;
}

// Launches that are being recorded.
typedef std::vector<std::function<void()>> Recorded;
static Recorded* recording;

extern "C" {
// For the stand-ins of other libraries.
bool standin_inside(Address at, size_t bytes) { return inside(at, bytes); }
void standin_put(const std::function<void()>* work) { recording ? recording->push_back(*work) : (*work)(); }

Result cuInit(unsigned) { return setting("FAKE_INIT", OK); }
Result cuDriverGetVersion(int* version) { return *version = setting("FAKE_VERSION", 13000), OK; }
Result cuDeviceGetCount(int* count) { return *count = setting("FAKE_DEVICES", 1), OK; }
Result cuDeviceGet(int* device, int ordinal) { return *device = ordinal, OK; }
Result cuDeviceGetName(char* name, int length, int) { return snprintf(name, length, "stand-in"), OK; }
Result cuDeviceGetAttribute(int* value, int attribute, int) {
    const int capability = setting("FAKE_CAPABILITY", 90);
    switch (attribute) {
    case 16: return *value = 2, OK; // multiprocessors
    case 75: return *value = capability / 10, OK;
    case 76: return *value = capability % 10, OK;
    case 97: return *value = 160 << 10, OK; // shared memory that a block may ask for
    case 115: return *value = 0, OK;        // pools of memory
    default: return INVALID_VALUE;
    }
}
Result cuDevicePrimaryCtxRetain(void** context, int) { return *context = &pieces, OK; }
Result cuDevicePrimaryCtxRelease_v2(int) { return OK; }
Result cuCtxSetCurrent(void*) { return OK; }
Result cuCtxGetCurrent(void** context) { return *context = &pieces, OK; }
Result cuStreamCreate(void** stream, unsigned) { return *stream = &pieces, OK; }
Result cuStreamDestroy_v2(void*) { return OK; }
Result cuStreamSynchronize(void*) { return setting("FAKE_SYNCHRONIZE", OK); }
Result cuGetErrorName(int, const char** text) { return *text = "CUDA_ERROR", OK; }
Result cuGetErrorString(int, const char** text) { return *text = "an error of the stand-in", OK; }

Result cuMemGetInfo_v2(size_t* free, size_t* all) { return *all = total(), *free = total() - used(), OK; }
Result cuMemAlloc_v2(Address* at, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    if (used() + bytes > total()) return OUT_OF_MEMORY;
    pieces[*at = (Address)guarded(bytes)] = bytes;
    return OK;
}
Result cuMemFree_v2(Address at) { return pieces.erase(at) ? OK : INVALID_VALUE; }
Result cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void*) {
    return inside(to, bytes) ? memset((void*)to, value, bytes), OK : INVALID_VALUE;
}
Result cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void*) {
    return inside(to, bytes) ? memcpy((void*)to, from, bytes), OK : INVALID_VALUE;
}
Result cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void*) {
    return inside(from, bytes) ? memcpy(to, (void*)from, bytes), OK : INVALID_VALUE;
}
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void*) {
    return inside(to, bytes) && inside(from, bytes) ? memcpy((void*)to, (void*)from, bytes), OK : INVALID_VALUE;
}

Result cuModuleLoadData(void** module, const void* image) {
    *module = dlopen((const char*)image, RTLD_NOW | RTLD_LOCAL);
    if (!*module) fprintf(stderr, "%s\n", dlerror());
    return *module ? OK : INVALID_VALUE;
}
Result cuModuleUnload(void*) { return OK; }
Result cuModuleGetFunction(void** function, void* module, const char* name) {
    void* const launch = dlsym(module, (std::string("launch_") + name).c_str());
    void* const bytes = dlsym(module, (std::string("bytes_") + name).c_str());
    if (!launch || !bytes) return NOT_FOUND;
    // As long as the process: modules are not unloaded.
    *function = new Kernel{(decltype(Kernel::launch))launch, ((size_t(*)())bytes)()};
    return OK;
}
Result cuFuncSetAttribute(void*, int attribute, int value) {
    return attribute == 8 && value <= 160 << 10 ? OK : INVALID_VALUE;
}
Result cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                      unsigned shared, void*, void** parameters, void**) {
    if (z != 1 || shared > 160 << 10) return INVALID_VALUE;
    const Kernel kernel = *(Kernel*)function;
    const std::vector<char> arguments((char*)parameters[0], (char*)parameters[0] + kernel.bytes);
    auto work = [=] { kernel.launch(arguments.data(), x, y, threads, shared); };
    recording ? recording->push_back(work) : work();
    return OK;
}

Result cuStreamBeginCapture_v2(void*, int) { return recording = new Recorded, OK; }
Result cuStreamEndCapture(void*, void** graph) { return *graph = recording, recording = nullptr, OK; }
Result cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) { return *executable = graph, OK; }
Result cuGraphLaunch(void* executable, void*) {
    for (auto& work : *(Recorded*)executable) work();
    return OK;
}
Result cuGraphExecDestroy(void*) { return OK; }
Result cuGraphDestroy(void* graph) { return delete (Recorded*)graph, OK; }
}
