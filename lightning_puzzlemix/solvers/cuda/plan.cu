// Which block moves where: one thread block plans the moves of one image, of sample blockIdx.x; blockIdx.y is 0 for the first
// images and 1 for their partners.
//
// The same deferred acceptance as ../matching.py, ties included. Within a round its outcome does not depend on the order in which
// sources propose: a target keeps the least (price - gain, source) among its holder and its bidders, which is one atomic minimum.
//
// Compile without contraction (--fmad=false): price - gain must round as on the host.

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif
typedef unsigned long long u64;
typedef unsigned int u32;

#define ALL_LANES 0xffffffffu
#define NOBODY 0xffffffffffffffffULL
// Of a source: holds the target of the move that it points at.
#define HOLDING (1 << 30)
// Of a source: no further move gains.
#define OUT (-1)

// Orders like (price, source), for prices of any sign.
__device__ __forceinline__ u64 bid(float price, int source) {
    const u32 bits = __float_as_uint(price);
    return (u64)(bits & 0x80000000u ? ~bits : bits | 0x80000000u) << 32 | (u32)source;
}

extern "C" __global__ void puzzlemix_plan(
    const float* shares_first, const float* shares_second,  // (B, rows, cols)
    const int* labels, int n, int top,                      // (B, n, n); L - 1
    const short* steps, const float* prices, int moves,     // (moves, 2), (moves,): see sorted_moves of ../matching.py
    int rows, int cols,
    int* plans)                                             // (2, B, rows * cols), written: the source of each target
{
    const int count = rows * cols;
    DYNAMIC_SHARED(u64, holder);                            // (count,) best bid for each target
    int* pointer = (int*)(holder + count);                  // (count,) of each source: its move, perhaps HOLDING; or OUT
    u32* visible = (u32*)(pointer + count);                 // one bit a target: the mask shows this image there
    const size_t sample = blockIdx.x;
    const bool second = blockIdx.y;
    const float* shares = (second ? shares_second : shares_first) + sample * count;
    const int hidden = second ? top : 0, high = rows / n, wide = cols / n;
    const int padded = (count + 31) & ~31;
    for (int target = threadIdx.x; target < padded; target += blockDim.x) {
        const int block = target / cols / high * n + target % cols / wide;
        const bool shown = target < count && labels[sample * n * n + block] != hidden;
        const u32 bits = __ballot_sync(ALL_LANES, shown);
        if ((target & 31) == 0) visible[target >> 5] = bits;
        if (target < count) holder[target] = NOBODY, pointer[target] = 0;
    }
    __syncthreads();
    // As many rounds as the reference's Algorithm 1.
    for (int round = 0; round < (rows > cols ? rows : cols); round++) {
        bool bidding = false;
        for (int source = threadIdx.x; source < count; source += blockDim.x) {
            int move = pointer[source];
            if (move == OUT || move & HOLDING) continue;
            const int row = source / cols, col = source - row * cols;
            int target = -1;
            float price = 0.0f;
            for (; move < moves; move++) {
                price = prices[move] - shares[source];
                if (price >= 0.0f) break;
                const int to_row = row + steps[2 * move], to_col = col + steps[2 * move + 1];
                if (to_row < 0 || to_row >= rows || to_col < 0 || to_col >= cols) continue;
                const int to = to_row * cols + to_col;
                if (visible[to >> 5] >> (to & 31) & 1) {
                    target = to;
                    break;
                }
            }
            pointer[source] = target < 0 ? OUT : move | HOLDING;
            if (target < 0) continue;
            atomicMin(&holder[target], bid(price, source));
            bidding = true;
        }
        if (!__syncthreads_or(bidding)) break;
        // Who is not, or no longer, its target's holder tries the next move in the next round.
        for (int source = threadIdx.x; source < count; source += blockDim.x) {
            if (pointer[source] == OUT || !(pointer[source] & HOLDING)) continue;
            const int move = pointer[source] & ~HOLDING;
            const int target = source + steps[2 * move] * cols + steps[2 * move + 1];
            if ((u32)holder[target] != (u32)source) pointer[source] = move + 1;
        }
        __syncthreads();
    }
    int* plan = plans + ((size_t)second * gridDim.x + sample) * count;
    for (int target = threadIdx.x; target < count; target += blockDim.x)
        plan[target] = holder[target] == NOBODY ? target : (int)(u32)holder[target];
}
