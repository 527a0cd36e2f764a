// Threads of a block as fibers of one system thread: a barrier is a switch, so that a block of any size runs anywhere and
// in an order of our choosing.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#if defined(__x86_64__)
extern "C" void shim_switch(void** save, void* load);
asm(R"(
.text
.globl shim_switch
shim_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
)");
struct Stack {
    void* pointer;
    void prepare(char* memory, size_t size, void (*entry)()) {
        void** top = (void**)((uintptr_t)(memory + size) & ~(uintptr_t)15);
        *--top = nullptr;
        *--top = (void*)entry;
        pointer = top - 6; // the registers that the switch restores
    }
    void switch_to(Stack& other) { shim_switch(&pointer, other.pointer); }
};
#else
#include <ucontext.h>
struct Stack {
    ucontext_t context;
    void prepare(char* memory, size_t size, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = memory;
        context.uc_stack.ss_size = size;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
    void switch_to(Stack& other) { swapcontext(&context, &other.context); }
};
#endif

// What the lanes of some warps give each other: two buffers, so that a lane may be one exchange ahead.
struct Exchange {
    int arrived = 0;
    unsigned generation = 0;
    uint32_t words[2][128][12];
};

struct Index {
    unsigned x, y, z;
};

// A copy that is under way: it is made as late as may be.
struct Copy {
    void* to;
    const void* from;
};

struct Thread {
    Stack stack;
    Index index;
    bool done;
    unsigned warp_turn, group_turn;
    std::deque<std::vector<Copy>> copies; // the last is still open
};

struct Block {
    Stack scheduler;
    std::vector<Thread> threads;
    std::vector<Exchange> warps, groups; // of 32 and of 128 threads
    Thread* current;
    int arrived;
    unsigned generation;
    uint64_t progress; // of anything: without it all threads wait for each other
    std::function<void()> body;
    Index index, size, grid;
    char* shared;
};
inline Block block_;

[[noreturn]] inline void shim_fail(const char* what) {
    fprintf(stderr, "shim: %s\n", what);
    exit(3);
}

inline void yield_() { block_.current->stack.switch_to(block_.scheduler); }

inline void __syncthreads() {
    const unsigned generation = block_.generation;
    block_.progress++;
    if (++block_.arrived == (int)block_.threads.size()) {
        block_.arrived = 0;
        block_.generation++;
        return;
    }
    while (block_.generation == generation) yield_();
}

// Every one of `lanes` threads gives `count` words; all get those of all.
inline uint32_t (*exchange(std::vector<Exchange>& all, unsigned lanes, unsigned& turn, const uint32_t* in, int count))[12] {
    const unsigned at = block_.current->index.x;
    Exchange& own = all[at / lanes];
    auto words = own.words[turn++ & 1];
    memcpy(words[at % lanes], in, 4 * count);
    const unsigned generation = own.generation;
    block_.progress++;
    if (++own.arrived == (int)lanes) {
        own.arrived = 0;
        own.generation++;
    } else {
        while (own.generation == generation) yield_();
    }
    return words;
}
inline uint32_t (*exchange_warp(const uint32_t* in, int count))[12] {
    return exchange(block_.warps, 32, block_.current->warp_turn, in, count);
}
inline uint32_t (*exchange_group(const uint32_t* in, int count))[12] {
    return exchange(block_.groups, 128, block_.current->group_turn, in, count);
}

inline void thread_entry() {
    block_.body();
    block_.current->done = true;
    block_.progress++;
    for (;;) yield_();
}

// Runs all blocks one after the other. `reverse`: the last thread goes first, which shows where a barrier is missing.
inline void launch(Index grid, unsigned threads, size_t shared, bool reverse, std::function<void()> body) {
    Block& b = block_;
    constexpr size_t stack_bytes = 64 << 10;
    static std::vector<char*> stacks;
    while (stacks.size() < threads) stacks.push_back((char*)malloc(stack_bytes));
    // Shared memory begins as NaN, and what lies beyond it must stay so.
    b.body = body, b.grid = grid, b.size = {threads, 1, 1};
    b.shared = (char*)aligned_alloc(1024, (shared + 1023) / 1024 * 1024 + 1024);
    for (unsigned y = 0; y < grid.y; y++) {
        for (unsigned x = 0; x < grid.x; x++) {
            memset(b.shared, 0xff, (shared + 1023) / 1024 * 1024 + 1024);
            b.index = {x, y, 0}, b.arrived = 0, b.generation = 0;
            b.threads.assign(threads, Thread{});
            b.warps.assign((threads + 31) / 32, Exchange{});
            b.groups.assign((threads + 127) / 128, Exchange{});
            for (unsigned i = 0; i < threads; i++) {
                b.threads[i].index = {i, 0, 0};
                b.threads[i].stack.prepare(stacks[i], stack_bytes, thread_entry);
            }
            for (size_t left = threads; left > 0;) {
                const uint64_t before = b.progress;
                left = 0;
                for (unsigned i = 0; i < threads; i++) {
                    b.current = &b.threads[reverse ? threads - 1 - i : i];
                    if (b.current->done) continue;
                    b.scheduler.switch_to(b.current->stack);
                    left += !b.current->done;
                }
                if (left > 0 && b.progress == before) shim_fail("threads wait for each other for ever");
            }
            for (size_t i = shared; i < (shared + 1023) / 1024 * 1024 + 1024; i++)
                if ((unsigned char)b.shared[i] != 0xff) shim_fail("a write beyond shared memory");
        }
    }
    free(b.shared);
}
