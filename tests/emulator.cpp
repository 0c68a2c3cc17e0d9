// Runs the CUDA kernels' own source on the CPU. Every CUDA thread is a fiber; between two barriers the fibers of a thread block
// run one after the other in a random order, so that a missing barrier or a race shows as a wrong or a changing result.
//
// g++ -O1 -std=c++17 -ffp-contract=off -shared -fPIC -DMASK_SOURCE='"mask.cu"' -DPLAN_SOURCE='"plan.cu"' emulator.cpp
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

// ---- what CUDA gives a kernel -------------------------------------------------------------------------------------------------
struct Index { int x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;
#define __device__ static
#define __forceinline__ inline
#define __global__
#define __shared__ static
static uint64_t dynamic_shared[1 << 14];
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(dynamic_shared)

static const int WARP = 32;
enum class State { ready, at_block_barrier, at_warp_barrier, finished };

// ---- switching between fibers -------------------------------------------------------------------------------------------------
#if defined(__x86_64__)
extern "C" void switch_stack(void** from, void* to);
asm(R"(.text
.globl switch_stack
switch_stack:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
struct Context {
    void* stack = nullptr;
    void start(char* memory, size_t size, void (*entry)()) {
        void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(memory) + size) & ~uintptr_t(15));
        *--top = nullptr;
        *--top = reinterpret_cast<void*>(entry);
        for (int saved = 0; saved < 6; saved++) *--top = nullptr;
        stack = top;
    }
    void leave_for(Context& other) { switch_stack(&stack, other.stack); }
};
#else  // The same by the C library, with two system calls a switch.
struct Context {
    ucontext_t place;
    void start(char* memory, size_t size, void (*entry)()) {
        getcontext(&place);
        place.uc_stack.ss_sp = memory, place.uc_stack.ss_size = size, place.uc_link = nullptr;
        makecontext(&place, entry, 0);
    }
    void leave_for(Context& other) { swapcontext(&place, &other.place); }
};
#endif

struct Fiber {
    Context context;
    State state = State::ready;
    int exchanges = 0, votes = 0;
    std::unique_ptr<char[]> stack{new char[1 << 15]};
};

static std::vector<Fiber> fibers;
static std::vector<int> ready;
static Context scheduler;
static std::function<void()> kernel;
static int current, alive, at_barrier, at_warp_barrier[64];
static uint64_t random_state;

static uint64_t next_random() {
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return random_state;
}

static void wait_as(State state) {
    const int self = current;
    fibers[self].state = state;
    fibers[self].context.leave_for(scheduler);
}

static void wake(State state, int first, int last) {
    for (int i = first; i < last; i++)
        if (fibers[i].state == state) fibers[i].state = State::ready, ready.push_back(i);
}

static void block_barrier() {
    if (++at_barrier < alive) return wait_as(State::at_block_barrier);
    at_barrier = 0;
    wake(State::at_block_barrier, 0, fibers.size());
}

static void warp_barrier() {
    const int first = current / WARP * WARP;
    if (++at_warp_barrier[current / WARP] < WARP) return wait_as(State::at_warp_barrier);
    at_warp_barrier[current / WARP] = 0;
    wake(State::at_warp_barrier, first, first + WARP);
}

static void fiber_entry() {
    kernel();
    alive--;
    fibers[current].state = State::finished;
    fibers[current].context.leave_for(scheduler);
}

// Run one thread block; false where its threads wait for each other forever.
static bool run_block(int threads) {
    if (static_cast<int>(fibers.size()) != threads) fibers = std::vector<Fiber>(threads);
    ready.clear();
    alive = threads, at_barrier = 0;
    memset(at_warp_barrier, 0, sizeof at_warp_barrier);
    for (int i = 0; i < threads; i++) {
        fibers[i].state = State::ready, fibers[i].exchanges = fibers[i].votes = 0;
        fibers[i].context.start(fibers[i].stack.get(), 1 << 15, fiber_entry);
        ready.push_back(i);
    }
    while (alive) {
        if (ready.empty()) return false;
        const size_t place = next_random() % ready.size();
        current = ready[place];
        ready[place] = ready.back();
        ready.pop_back();
        threadIdx = {current, 0, 0};
        scheduler.leave_for(fibers[current].context);
    }
    return true;
}

static bool run_grid(int batch, int second, int threads, uint64_t seed, std::function<void()> body) {
    random_state = 88172645463325252ull ^ seed * 0x9E3779B97F4A7C15ull;
    kernel = body;
    blockDim = {threads, 1, 1}, gridDim = {batch, second, 1};
    for (int x = 0; x < batch; x++)
        for (int y = 0; y < second; y++) {
            blockIdx = {x, y, 0};
            if (!run_block(threads)) return false;
        }
    return true;
}

// ---- barriers, votes and exchanges. Two sets of cells by turns: one is read while the other is filled -------------------------
static void resume(int self) { threadIdx = {self, 0, 0}; }

[[maybe_unused]] static void __syncthreads() {
    const int self = current;
    block_barrier();
    resume(self);
}

static int __syncthreads_or(int vote) {
    static int any[2], arrived[2];
    const int self = current, turn = fibers[self].votes ^= 1;
    if (!arrived[turn]) any[turn] = 0;
    any[turn] |= vote != 0;
    if (++arrived[turn] == alive) arrived[turn] = 0;
    block_barrier();
    resume(self);
    return any[turn];
}

static const uint64_t* exchange(uint64_t value) {
    static uint64_t cells[2][2048];
    const int self = current, turn = fibers[self].exchanges ^= 1;
    cells[turn][self] = value;
    warp_barrier();
    resume(self);
    return cells[turn] + self / WARP * WARP;
}

template <class To, class From> static To same_bits(From from) {
    To to{};
    memcpy(&to, &from, sizeof(From) < sizeof(To) ? sizeof(From) : sizeof(To));
    return to;
}

static unsigned __ballot_sync(unsigned, int vote) {
    const uint64_t* votes = exchange(vote != 0);
    unsigned bits = 0;
    for (int lane = 0; lane < WARP; lane++) bits |= static_cast<unsigned>(votes[lane]) << lane;
    return bits;
}
static int __any_sync(unsigned lanes, int vote) { return __ballot_sync(lanes, vote) != 0; }

template <class T> static T from_lane(T value, int lane) {
    const int own = current % WARP;
    return same_bits<T>(exchange(same_bits<uint64_t>(value))[lane >= 0 && lane < WARP ? lane : own]);
}
template <class T> static T __shfl_xor_sync(unsigned, T value, int k) { return from_lane(value, current % WARP ^ k); }
template <class T> static T __shfl_down_sync(unsigned, T value, int k) { return from_lane(value, current % WARP + k); }
template <class T> static T __shfl_up_sync(unsigned, T value, int k) { return from_lane(value, current % WARP - k); }

static unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    shift &= 31;
    return shift ? low >> shift | high << (32 - shift) : low;
}
static long long __double2ll_rn(double value) { return llrint(value); }
static double __longlong_as_double(long long bits) { return same_bits<double>(bits); }
static long long __double_as_longlong(double value) { return same_bits<long long>(value); }
static unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }
static unsigned long long atomicMin(unsigned long long* at, unsigned long long value) {
    const unsigned long long before = *at;
    if (value < before) *at = value;
    return before;
}
using std::fabs;

// ---- the kernels and what Python calls ----------------------------------------------------------------------------------------
#include MASK_SOURCE
#include PLAN_SOURCE

extern "C" bool emulate_mask(
    const float* cost_first, const float* cost_second, const float* weight_rows, const float* weight_cols, const double* priors,
    int stride, int n, int top, int* labels, int batch, int threads, uint64_t seed)
{
    return run_grid(batch, 1, threads, seed, [=] {
        puzzlemix_mask(cost_first, cost_second, weight_rows, weight_cols, priors, stride, n, top, labels);
    });
}

extern "C" bool emulate_plan(
    const float* shares_first, const float* shares_second, const int* labels, int n, int top, const short* steps,
    const float* prices, int moves, int rows, int cols, int* plans, int batch, int threads, uint64_t seed)
{
    return run_grid(batch, 2, threads, seed, [=] {
        puzzlemix_plan(shares_first, shares_second, labels, n, top, steps, prices, moves, rows, cols, plans);
    });
}
