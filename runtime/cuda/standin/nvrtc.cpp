// Stands in for NVRTC in tests: a text becomes a shared object with its kernels on the shim, whose path is the image that
// the stand-in for the driver loads. A text is compiled once.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

typedef int Result;
enum { OK = 0, COMPILATION = 6 };

struct Program {
    std::string text, log, image;
};

static std::string setting(const char* name, const char* otherwise) {
    const char* const value = getenv(name);
    return value ? value : otherwise;
}

static std::string read_file(const std::string& path) {
    std::string text;
    if (FILE* const file = fopen(path.c_str(), "rb")) {
        for (int c; (c = fgetc(file)) != EOF;) text += (char)c;
        fclose(file);
    }
    return text;
}

static bool write_file(const std::string& path, const std::string& text) {
    FILE* const file = fopen(path.c_str(), "wb");
    if (!file) return false;
    const bool written = fwrite(text.data(), 1, text.size(), file) == text.size();
    return fclose(file) == 0 && written;
}

static Result give(const std::string& from, char* to) { return memcpy(to, from.data(), from.size()), OK; }

extern "C" {
Result nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0, OK; }
Result nvrtcCreateProgram(Program** program, const char* text, const char*, int, const char* const*, const char* const*) {
    return *program = new Program{text, "", ""}, OK;
}
Result nvrtcDestroyProgram(Program** program) { return delete *program, OK; }

Result nvrtcCompileProgram(Program* program, int, const char* const*) {
    uint64_t digest = 1469598103934665603u;
    for (const char c : program->text + read_file(setting("STANDIN_SHIM", ".") + "/cuda.h")) digest = (digest ^ (unsigned char)c) * 1099511628211u;
    char name[32];
    snprintf(name, sizeof name, "/%016llx", (unsigned long long)digest);
    const std::string stem = setting("STANDIN_FOLDER", "/tmp") + name, object = stem + ".so";
    if (access(object.c_str(), R_OK) != 0) {
        const std::string mine = stem + "." + std::to_string(getpid());
        const std::string command = setting("CXX", "g++") + " -std=c++17 -O1 -w -shared -fPIC -I " + setting("STANDIN_SHIM", ".") + " " + mine +
                                    ".cpp -o " + mine + ".so 2> " + mine + ".log";
        if (!write_file(mine + ".cpp", "#include \"cuda.h\"\nnamespace k {\n" + program->text + "\n}\n")) return COMPILATION;
        const int failed = system(command.c_str());
        program->log = read_file(mine + ".log");
        remove((mine + ".log").c_str());
        if (failed || rename((mine + ".so").c_str(), object.c_str())) return COMPILATION;
        rename((mine + ".cpp").c_str(), (stem + ".cpp").c_str());
    }
    program->image = object + '\0';
    return OK;
}
Result nvrtcGetProgramLogSize(Program* program, size_t* size) { return *size = program->log.size(), OK; }
Result nvrtcGetProgramLog(Program* program, char* to) { return give(program->log, to); }
Result nvrtcGetCUBINSize(Program* program, size_t* size) { return *size = program->image.size(), OK; }
Result nvrtcGetCUBIN(Program* program, char* to) { return give(program->image, to); }
Result nvrtcGetPTXSize(Program* program, size_t* size) { return *size = program->image.size(), OK; }
Result nvrtcGetPTX(Program* program, char* to) { return give(program->image, to); }
}
