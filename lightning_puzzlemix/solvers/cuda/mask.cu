// The mask of the least energy, exactly: one thread block solves one sample, one thread owns one block of the mask.
//
// The algorithm, the integers and therefore the labels are those of ../maxflow.py: steepest descent from the middle label, first
// up, then down, each step a minimum cut by a preflow that is pushed in waves. A wave is a breadth-first search from the deficits
// (one warp, one lane a row of blocks, one bit a column) and then rounds in which all blocks at once push along the arcs that the
// search has found, until nothing moves. The minimum cut that is taken is unique, so the order of pushes does not matter.
//
// No atomics: every box below has one writer and one reader, and a box written in round t is read between the barriers of rounds
// t and t + 1 and written again in round t + 2. Two sets of boxes are enough, one is not.
//
// No #include, so that NVRTC needs no headers. Compile without contraction (--fmad=false): the energies must round as on the host.

typedef long long i64;
typedef unsigned int u32;

#define MAX_BLOCKS 512  // of one mask: 22 x 22 = 484
#define MAX_LABELS 16
#define MAX_WARPS (MAX_BLOCKS / 32)
#define ALL_LANES 0xffffffffu
#define UNROLL _Pragma("unroll")

// Neighbors: 0 right, 1 left, 2 below, 3 above; k ^ 1 is the way back.
struct Shared {
    i64 box[2][4][MAX_BLOCKS];        // what a block gets in this round from its four neighbors
    u32 residual[4][MAX_WARPS + 1];   // one bit a block: the arc can carry more
    u32 deficit[MAX_WARPS + 1];       // one bit a block
    u32 excess[MAX_WARPS + 1];        // one bit a block
    u32 nearer[4][32];                // a word a row: arcs that lead one step nearer to a deficit
    u32 reaching[32];                 // a word a row: blocks that reach a deficit
    i64 steps[MAX_LABELS];            // of the prior, from label to label
    double largest[2][MAX_WARPS];     // of the costs and of the weights
    int label[MAX_BLOCKS];
    int moving;
};

// What one thread knows of its block. Amounts are integers, the energy times (L - 1)^2 times a power of two.
struct Block {
    bool real;  // false for the threads that fill up the last warp
    int row, col;
    int label;
    i64 slope, capacity[4], residual[4];
    i64 excess;  // negative: a deficit
    i64 wish;    // how much of the excess the present cut has asked for
};

__device__ __forceinline__ bool nonzero(i64 value) { return ((u32)value | (u32)(value >> 32)) != 0; }

// Bits row * n to row * n + n - 1 of a bit array; n < 32.
__device__ __forceinline__ u32 row_of(const u32* bits, int row, int n) {
    const int first = row * n;
    return __funnelshift_r(bits[first >> 5], bits[(first >> 5) + 1], first & 31) & ((1u << n) - 1u);
}

// The greatest of all threads' values, which are >= 0; infinity if any is NaN.
__device__ __forceinline__ double block_max(double value, double* largest, int warps) {
    if (!(value >= 0.0)) value = __longlong_as_double(0x7ff0000000000000LL);
    for (int shift = 16; shift; shift >>= 1) {
        const double other = __shfl_xor_sync(ALL_LANES, value, shift);
        value = other > value ? other : value;
    }
    if ((threadIdx.x & 31) == 0) largest[threadIdx.x >> 5] = value;
    __syncthreads();
    value = 0.0;
    for (int warp = 0; warp < warps; warp++) value = largest[warp] > value ? largest[warp] : value;
    return value;
}

// Scale one sample's energy to integers, as _integer_scale and _to_integers of ../maxflow.py. A sample that holds NaN or infinity
// becomes one without any energy: 0 * NaN would be no integer.
__device__ __forceinline__ void to_integers(
    Block& me, Shared& sh, double difference, const double* weight, const double* prior, int n, int top, int warps)
{
    double heaviest = 0.0;
    for (int k = 0; k < 4; k++) heaviest = weight[k] > heaviest || weight[k] != weight[k] ? weight[k] : heaviest;
    const double cost = block_max(fabs(difference), sh.largest[0], warps);
    heaviest = block_max(heaviest, sh.largest[1], warps);
    double steps = 0.0;
    for (int label = 0; label < top; label++) steps += fabs(prior[label + 1] - prior[label]);
    const double bound = (double)(n * n) * (cost + 2.0 * heaviest + steps) * (double)(top * top);
    const double ratio = 4503599627370496.0 /* 2^52 */ / bound;
    // Keeping the exponent alone rounds down to a power of two.
    const double scale = bound > 1e-250 ? __longlong_as_double(__double_as_longlong(ratio) & 0x7ff0000000000000LL) : 0.0;
    const bool posed = scale > 0.0;
    me.slope = posed ? (i64)top * __double2ll_rn(scale * difference) : 0;
    for (int k = 0; k < 4; k++) me.residual[k] = me.capacity[k] = posed ? __double2ll_rn(scale * weight[k]) : 0;
    const int label = threadIdx.x;
    if (label < top) sh.steps[label] = posed ? (i64)(top * top) * __double2ll_rn(scale * (prior[label + 1] - prior[label])) : 0;
}

// How much this block by itself wants the lower of the two labels of this cut: k (stay) and k + 1, or k (stay) and k - 1.
__device__ __forceinline__ i64 wish_of(const Block& me, const Shared& sh, const int* offset, bool up, int top) {
    if (!me.real) return 0;
    i64 wish = me.slope;
    if (up && me.label == top) wish = 1LL << 60;
    else if (!up && me.label == 0) wish = -(1LL << 60);
    else wish += sh.steps[up ? me.label : me.label - 1];
    for (int k = 0; k < 4; k++)
        if (me.capacity[k]) wish += 2 * (me.label - sh.label[threadIdx.x + offset[k]]) * me.capacity[k];
    return wish;
}

// Note which of the block's arcs lead one step nearer to a deficit, and who reaches one; return whether any excess does.
__device__ __forceinline__ bool search(const Block& me, Shared& sh, int n) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int k = 0; k < 4; k++) {
        const u32 bits = __ballot_sync(ALL_LANES, me.residual[k] > 0);
        if (lane == 0) sh.residual[k][warp] = bits;
    }
    const u32 low = __ballot_sync(ALL_LANES, me.excess < 0), high = __ballot_sync(ALL_LANES, me.excess > 0);
    if (lane == 0) sh.deficit[warp] = low, sh.excess[warp] = high;
    __syncthreads();
    if (warp == 0) {
        const bool mine = lane < n;
        u32 open[4], nearer[4];
        UNROLL for (int k = 0; k < 4; k++) open[k] = mine ? row_of(sh.residual[k], lane, n) : 0, nearer[k] = 0;
        u32 front = mine ? row_of(sh.deficit, lane, n) : 0, reaching = front;
        while (__any_sync(ALL_LANES, front != 0)) {
            // Two levels for each vote: one more with an empty front changes nothing.
            UNROLL for (int twice = 0; twice < 2; twice++) {
                const u32 below = __shfl_down_sync(ALL_LANES, front, 1), above = __shfl_up_sync(ALL_LANES, front, 1);
                const u32 met[4] = {
                    open[0] & front >> 1 & ~reaching, open[1] & front << 1 & ~reaching,
                    open[2] & below & ~reaching, open[3] & above & ~reaching,
                };
                UNROLL for (int k = 0; k < 4; k++) nearer[k] |= met[k];
                front = met[0] | met[1] | met[2] | met[3];
                reaching |= front;
            }
        }
        UNROLL for (int k = 0; k < 4; k++) sh.nearer[k][lane] = nearer[k];
        sh.reaching[lane] = reaching;
        const bool moving = __any_sync(ALL_LANES, (mine && row_of(sh.excess, lane, n) & reaching) != 0);
        if (lane == 0) sh.moving = moving;
    }
    __syncthreads();
    return sh.moving;
}

// Push all excess along the arcs that the search has found, all blocks at once, until nothing moves any more.
__device__ __forceinline__ void push(Block& me, Shared& sh, const int* offset, int& boxes) {
    // through[k]: what the first k of those arcs may still carry together. It stands for residual[k] of those arcs meanwhile; out
    // of the others nothing can flow, and their residual grows by what comes in.
    i64 through[5];
    bool out[4];
    through[0] = 0;
    UNROLL for (int k = 0; k < 4; k++) {
        const i64 open = me.real && (sh.nearer[k][me.row] >> me.col & 1) ? me.residual[k] : 0;
        out[k] = open != 0;
        through[k + 1] = through[k] + open;
    }
    const bool capable = through[4] != 0;
    for (;;) {
        i64 sent = 0;
        if (__any_sync(ALL_LANES, capable && me.excess > 0)) {
            const i64 wanted = me.excess > 0 ? me.excess : 0;
            i64 upto[5];
            upto[0] = 0;
            UNROLL for (int k = 1; k < 5; k++) upto[k] = wanted < through[k] ? wanted : through[k];
            UNROLL for (int k = 0; k < 4; k++) {
                const i64 amount = upto[k + 1] - upto[k];
                if (nonzero(amount)) sh.box[boxes][k ^ 1][threadIdx.x + offset[k]] = amount;
            }
            UNROLL for (int k = 1; k < 5; k++) through[k] -= upto[k];
            sent = upto[4];
            me.excess -= sent;
        }
        if (!__syncthreads_or(nonzero(sent))) break;
        UNROLL for (int k = 0; k < 4; k++) {
            const i64 came = sh.box[boxes][k][threadIdx.x];
            if (nonzero(came)) sh.box[boxes][k][threadIdx.x] = 0;
            me.residual[k] += came;
            me.excess += came;
        }
        boxes ^= 1;
    }
    UNROLL for (int k = 0; k < 4; k++)
        if (out[k]) me.residual[k] = through[k + 1] - through[k];
}

extern "C" __global__ void puzzlemix_mask(
    const float* cost_first, const float* cost_second,   // (B, n, n)
    const float* weight_rows, const float* weight_cols,  // (B, n - 1, n), (B, n, n - 1)
    const double* priors, int priors_stride,             // (B, L) with the stride L, or (1, L) with the stride 0
    int n, int top,                                      // blocks per side; L - 1
    int* labels)                                         // (B, n, n), written
{
    __shared__ Shared sh;
    const int thread = threadIdx.x, blocks = n * n, warps = blockDim.x >> 5;
    const int offset[4] = {1, -1, n, -n};
    const size_t sample = blockIdx.x;
    Block me;
    me.real = thread < blocks;
    me.row = thread / n, me.col = thread - me.row * n;
    double difference = 0.0, weight[4] = {0.0, 0.0, 0.0, 0.0};
    if (me.real) {
        const size_t at = sample * blocks + thread;
        difference = (double)cost_first[at] - (double)cost_second[at];
        const float* across = weight_cols + sample * (blocks - n) + me.row * (n - 1) + me.col;
        const float* down = weight_rows + sample * (blocks - n) + thread;
        if (me.col + 1 < n) weight[0] = across[0];
        if (me.col > 0) weight[1] = across[-1];
        if (me.row + 1 < n) weight[2] = down[0];
        if (me.row > 0) weight[3] = down[-n];
    }
    to_integers(me, sh, difference, weight, priors + sample * priors_stride, n, top, warps);
    for (int k = 0; k < 4; k++) sh.box[0][k][thread] = 0, sh.box[1][k][thread] = 0;
    // The word behind the last warp's is read with it.
    if (thread == 0) {
        for (int k = 0; k < 4; k++) sh.residual[k][warps] = 0;
        sh.deficit[warps] = sh.excess[warps] = 0;
    }
    const int middle = top / 2;
    me.label = middle, me.excess = 0, me.wish = 0;
    int boxes = 0;
    for (int cut = 0; cut < top; cut++) {
        const bool up = cut < top - middle;
        sh.label[thread] = me.label;
        __syncthreads();
        const i64 wish = wish_of(me, sh, offset, up, top);
        // Where no block gains by moving alone, no set of blocks does. The barrier also ends the reading of labels.
        if (!__syncthreads_or(me.real && (up ? wish < 0 : wish >= 0))) continue;
        // The flow of one cut is a valid start for the next: the capacities are the same, only wishes have changed.
        me.excess += wish - me.wish;
        me.wish = wish;
        while (search(me, sh, n)) push(me, sh, offset, boxes);
        const bool reaching = me.real && (sh.reaching[me.row] >> me.col & 1);
        if (up && reaching) me.label++;
        if (!up && me.real && !reaching) me.label--;
    }
    if (me.real) labels[sample * blocks + thread] = me.label;
}
