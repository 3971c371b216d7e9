// Runs the kernels of csrc/soft_cross_entropy.cu on a CPU, in any order of blocks, warps and threads.
#include "shim.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "soft_cross_entropy.cu"

kd_shim::triple threadIdx, blockIdx, blockDim, gridDim;

// The section that all __shared__ variables lie in.
extern "C" __attribute__((visibility("hidden"))) unsigned char __start_kd_shared[], __stop_kd_shared[];

namespace kd_shim {

typedef void (*kernel)(kd_call, int);
enum { FORWARD, REVERSE, SHUFFLED, STACK = 1 << 17 };

struct meeting {  // of the lanes of one mask in one warp
    int warp;
    unsigned mask, arrived;
    int what;
    unsigned generation;
    unsigned long long brought[2][32];
};
struct thread {
    ucontext_t context;
    char* stack;
    bool done;
    const unsigned* waits_for;  // runs on when this differs from `seen`
    unsigned seen;
};

unsigned char* dynamic_shared;
static std::vector<thread> threads;
static std::vector<char*> stacks;
static std::vector<meeting*> meetings;
static ucontext_t scheduler;
static int current, arrived, left;
static unsigned barriers, never;
static char message[300];
static kernel running;
static kd_call argument;
static int staged_argument;
static unsigned random_state;

static unsigned random_number() { return random_state = random_state * 1664525u + 1013904223u, random_state >> 8; }
int this_lane() { return current % 32; }

static void wait(const unsigned* generation) {
    thread& own = threads[current];
    own.waits_for = generation;
    own.seen = *generation;
    swapcontext(&own.context, &scheduler);
}

[[noreturn]] static void fail(const char* text, int a = 0, int b = 0) {
    if (!message[0]) {
        int n = std::snprintf(message, sizeof message, "block %u, thread %d: ", blockIdx.x, current);
        std::snprintf(message + n, sizeof message - n, text, a, b);
    }
    for (;;) {  // the scheduler never comes back to it
        threads[current].waits_for = &never;
        threads[current].seen = never;
        swapcontext(&threads[current].context, &scheduler);
    }
}

void block_barrier() {
    if (left) fail("__syncthreads after %d threads had left", left);
    if (++arrived < (int)blockDim.x) return wait(&barriers);
    arrived = 0;
    ++barriers;
}

unsigned long long exchange(unsigned mask, int what, unsigned long long own, int partner) {
    int warp = current / 32, lane = this_lane();
    if (!(mask >> lane & 1)) fail("lane %d is not in its own mask", lane);
    if (!(mask >> partner & 1)) fail("lane %d is not in the mask of lane %d", partner, lane);
    meeting* here = nullptr;
    for (meeting* one : meetings)
        if (one->warp == warp && one->mask == mask) here = one;
    if (!here) meetings.push_back(here = new meeting{warp, mask, 0, 0, 0, {}});
    if (here->arrived && here->what != what) fail("some lanes came to shuffle and some to wait");
    for (int other = 0; other < 32; ++other)
        if (mask >> other & 1 && threads[warp * 32 + other].done) fail("waits for lane %d, which has left", other);
    unsigned generation = here->generation;
    here->what = what;
    here->brought[generation & 1][lane] = own;
    here->arrived |= 1u << lane;
    if (here->arrived == mask) {
        here->arrived = 0;
        ++here->generation;
    } else {
        wait(&here->generation);
    }
    return here->brought[generation & 1][partner];
}

static void body() {
    running(argument, staged_argument);
    threads[current].done = true;
    ++left;
    if (arrived) fail("left while %d threads wait in __syncthreads", arrived);
    swapcontext(&threads[current].context, &scheduler);
}

__attribute__((no_sanitize("address"))) static void spoil(unsigned char* from, unsigned char* to) {
    for (volatile unsigned char* at = from; at < to; ++at) *at = 0xff;  // not a number in every type
}

// Warps and the lanes of each, in the order asked for.
static std::vector<int> ordered(int size, int order) {
    std::vector<int> all(size);
    for (int i = 0; i < size; ++i) all[i] = order == REVERSE ? size - 1 - i : i;
    for (int i = size - 1; order == SHUFFLED && i > 0; --i) std::swap(all[i], all[random_number() % (i + 1)]);
    return all;
}

static void run_block(int block, int size, int order) {
    blockIdx.x = block;
    spoil(__start_kd_shared, __stop_kd_shared);
    threads.assign(size, thread());
    for (meeting* one : meetings) delete one;
    meetings.clear();
    arrived = left = 0;
    while ((int)stacks.size() < size) stacks.push_back(static_cast<char*>(std::malloc(STACK)));
    for (int i = 0; i < size; ++i) {
        thread& one = threads[i];
        getcontext(&one.context);
        one.context.uc_stack.ss_sp = stacks[i];
        one.context.uc_stack.ss_size = STACK;
        one.context.uc_link = nullptr;
        makecontext(&one.context, body, 0);
    }
    while (left < size && !message[0]) {
        bool moved = false;
        for (int warp : ordered(size / 32, order))
            for (int lane : ordered(32, order)) {
                thread& one = threads[warp * 32 + lane];
                if (one.done || (one.waits_for && *one.waits_for == one.seen)) continue;
                one.waits_for = nullptr;
                current = warp * 32 + lane;
                threadIdx.x = current;
                moved = true;
                swapcontext(&scheduler, &one.context);
                if (message[0]) return;
            }
        if (!moved) std::snprintf(message, sizeof message, "block %d: every thread waits for another one", block);
    }
}

}  // namespace kd_shim

// Null, or what went wrong. order: 0 forward, 1 reverse, 2 shuffled by the seed.
extern "C" const char* kd_shim_run(kd_shim::kernel kernel, const kd_call* call, int staged, int grid, int block, int shared,
                                   int order, unsigned seed) {
    using namespace kd_shim;
    message[0] = 0;
    if (call->size != (kd_int)sizeof(kd_call)) return "a call of another size";
    if (grid < 1 || block < 32 || block > 1024 || block % 32 || shared < 0 || shared + 4096 > 228 * 1024)
        return "a launch that no device takes";
    running = kernel;
    argument = *call;
    staged_argument = staged;
    random_state = seed;
    gridDim = {(unsigned)grid, 1, 1};
    blockDim = {(unsigned)block, 1, 1};
    std::vector<int> blocks = ordered(grid, order);
    for (int one : blocks) {
        // Memory of its own for each block, of this size and no more.
        void* memory = nullptr;
        if (posix_memalign(&memory, 16, shared > 0 ? shared : 16)) return "no memory";
        dynamic_shared = static_cast<unsigned char*>(memory);
        spoil(dynamic_shared, dynamic_shared + shared);
        run_block(one, block, order);
        std::free(memory);
        if (message[0]) return message;
    }
    return nullptr;
}

extern "C" kd_int kd_shim_call_size() { return sizeof(kd_call); }

#ifdef KD_SHIM_PROGRAM
// Launches that test_cuda_shim.py recorded, each buffer in memory of exactly its size, in five orders.
#include <dlfcn.h>

struct recorded {
    char kernel[64];
    int grid, block, shared, staged;
    kd_int call_bytes, buffers;
};

static bool read_all(std::FILE* file, void* where, size_t bytes) { return std::fread(where, 1, bytes, file) == bytes; }

int main(int, char** arguments) {
    std::FILE* file = std::fopen(arguments[1], "rb");
    recorded head;
    int launches = 0;
    while (file && read_all(file, &head, sizeof head)) {
        kd_call call;
        if (head.call_bytes != (kd_int)sizeof call || !read_all(file, &call, sizeof call)) return 2;
        std::vector<void*> buffers;
        std::vector<std::vector<char>> first;
        for (kd_int i = 0; i < head.buffers; ++i) {
            kd_int place, bytes;
            if (!read_all(file, &place, 8) || !read_all(file, &bytes, 8)) return 2;
            first.emplace_back(bytes);
            if (!read_all(file, first.back().data(), bytes)) return 2;
            // Misaligned by as much as it was.
            void* old;
            __builtin_memcpy(&old, (char*)&call + 8 * place, 8);
            size_t off = (size_t)old % 16;
            char* memory = static_cast<char*>(std::malloc(bytes + off));
            void* now = memory + off;
            __builtin_memcpy((char*)&call + 8 * place, &now, 8);
            buffers.push_back(now);
        }
        kd_shim::kernel kernel = (kd_shim::kernel)dlsym(RTLD_DEFAULT, head.kernel);
        if (!kernel) return 3;
        for (int order = 0; order < 5; ++order) {
            for (size_t i = 0; i < buffers.size(); ++i) __builtin_memcpy(buffers[i], first[i].data(), first[i].size());
            const char* wrong = kd_shim_run(kernel, &call, head.staged, head.grid, head.block, head.shared,
                                            order < 2 ? order : 2, order);
            if (wrong) return std::fprintf(stderr, "%s: %s\n", head.kernel, wrong), 4;
        }
        for (void* one : buffers) std::free((void*)((size_t)one & ~(size_t)15));
        ++launches;
    }
    std::printf("%d launches\n", launches);
}
#endif
