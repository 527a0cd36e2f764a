// Reads launches from standard input, runs them and writes what they made to standard output.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include "cuda.h"

struct Entry {
    void (*run)(const void* arguments);
};

// As Rust's `Arguments`.
struct Sent {
    void *planes, *scale, *zero, *x, *y, *bias, *gate, *residual, *partial, *tickets, *prepared;
    int64_t plane_stride;
    int32_t rows, cols, tokens, groups;
};

struct Launch {
    uint32_t kernel, grid_x, grid_y, threads, shared, reverse;
};

inline void read_all(void* to, size_t count) {
    if (fread(to, 1, count, stdin) != count) shim_fail("the input ends early");
}

// Memory that ends at a page which nobody may touch, so that reading beyond it is noticed; aligned as device memory is.
inline char* guarded(size_t bytes) {
    if (bytes == 0) return nullptr;
    const size_t page = sysconf(_SC_PAGESIZE), padded = (bytes + 15) / 16 * 16;
    const size_t whole = (padded + page - 1) / page * page;
    char* const all = (char*)mmap(nullptr, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) shim_fail("no memory");
    mprotect(all + whole, page, PROT_NONE);
    memset(all, 0xff, whole);
    return all + whole - padded;
}

template <size_t N> int serve(const Entry (&entries)[N]) {
    uint32_t launches;
    while (fread(&launches, 1, 4, stdin) == 4) {
        std::vector<Launch> todo(launches);
        read_all(todo.data(), launches * sizeof(Launch));
        Sent sent;
        read_all(&sent, sizeof sent);
        // Inputs come with their bytes, outputs and workspaces as lengths; tickets begin at 0.
        uint64_t length[11];
        read_all(length, sizeof length);
        void** const pointers[11] = {&sent.planes, &sent.scale, &sent.zero,    &sent.x,       &sent.bias,    &sent.gate,
                                     &sent.residual, &sent.y,   &sent.partial, &sent.tickets, &sent.prepared};
        for (int i = 0; i < 11; i++) {
            *pointers[i] = guarded(length[i]);
            if (i < 7) read_all(*pointers[i], length[i]);
        }
        if (length[9]) memset(sent.tickets, 0, length[9]);
        for (const Launch& l : todo) {
            if (l.kernel >= N) shim_fail("no such kernel");
            launch({l.grid_x, l.grid_y, 1}, l.threads, l.shared, l.reverse, [&] { entries[l.kernel].run(&sent); });
        }
        for (size_t i = 0; i < length[9]; i++)
            if (((char*)sent.tickets)[i]) shim_fail("tickets are left over");
        fwrite(sent.y, 1, length[7], stdout);
        fflush(stdout);
    }
    return 0;
}
