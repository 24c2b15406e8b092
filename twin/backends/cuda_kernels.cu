// Kernels of twin/backends/cuda.py. What a step is stands in twin/backends/__init__.py.
//
// Compiled with -DREAL=float or double, -DGOMPERTZ=0 or 1 and -DLOG_FLOOR=..., minus the logarithm of GOMPERTZ_FLOOR.
// One thread computes one voxel of one member, all fields of it. Fields are (B, F, nx, ny, nz) with a halo, so that
// neighbours need no check. No header is needed; the tests compile this very text as C++ for the CPU.

struct Voxel {
    int member, i, j, k, at;  // at is the place in the volume
};

// The voxel of this thread; false outside the box, six numbers: the first voxel and one past the last. Blocks are tiles
// of (z, y, x), members follow along x.
__device__ bool find(Voxel& voxel, const int* box, int nx, int ny, int nz)
{
    const int tiles = (nx - 2 + int(blockDim.z) - 1) / int(blockDim.z);
    voxel.member = int(blockIdx.x) / tiles;
    voxel.i = 1 + int(blockIdx.x) % tiles * int(blockDim.z) + int(threadIdx.z);
    voxel.j = 1 + int(blockIdx.y * blockDim.y + threadIdx.y);
    voxel.k = 1 + int(blockIdx.z * blockDim.x + threadIdx.x);
    voxel.at = (voxel.i * ny + voxel.j) * nz + voxel.k;
    return voxel.i >= box[0] && voxel.j >= box[1] && voxel.k >= box[2] && voxel.i < box[3] && voxel.j < box[4] &&
           voxel.k < box[5];
}

// Density after growth, its derivative in the density before, and in log proliferation.
struct Growth {
    REAL grown, slope, source;
};

// Exact growth of a density relative to its capacity over proliferation times time `amount`.
__device__ Growth relative(REAL u, REAL amount)
{
#if GOMPERTZ
    const REAL one = 1, limit = LOG_FLOOR;
    if (!(u > 0)) return {0, exp(amount), 0};
    const REAL low = log(u);
    const REAL exponential = min(max(-limit - low, REAL(0)), amount);
    const REAL later = (low + exponential) * exp(-(amount - exponential) / limit);
    const REAL speed = min(-later / limit, one), begin = min(-low / limit, one);
    const REAL ratio = begin > 0 ? speed / begin : exp(-amount / limit);
    const REAL grown = exp(later);
    return {grown, exp(later - low) * ratio, amount * grown * speed};
#else
    const REAL factor = expm1(amount);
    const REAL shrink = 1 / (1 + u * factor);
    const REAL grown = u * (factor + 1) * shrink;
    return {grown, (factor + 1) * shrink * shrink, amount * grown * (1 - grown)};
#endif
}

__device__ Growth grow(REAL u, REAL amount, const REAL* local, const REAL* capacity, int at)
{
    if (amount == 0) return {u, 1, 0};
    if (local) amount *= local[at];
    REAL most = capacity ? capacity[at] : REAL(1);
    if (!(most > 0)) most = 1;  // outside the domain, where nothing grows
    Growth made = relative(u / most, amount);
    made.grown *= most;
    made.source *= most;
    return made;
}

// Growth, kill, growth of one voxel: first the density, then any tangents. The row of the table holds the amounts of
// both growths, the survival, and the derivatives of the kill for the fields 1 and on.
struct Reaction {
    const REAL* row;
    Growth first, second;

    __device__ REAL density(REAL u, const REAL* local, const REAL* capacity, int at)
    {
        first = grow(u, row[0], local, capacity, at);
        second = grow(row[2] * first.grown, row[1], local, capacity, at);
        return second.grown;
    }

    __device__ REAL tangent(REAL v, int field) const
    {
        v = v * first.slope + (field == 2 ? first.source : REAL(0));
        v = row[2] * (v - row[2 + field] * first.grown);
        return v * second.slope + (field == 2 ? second.source : REAL(0));
    }
};

// One stage from y_{m-1} in `y`, y_{m-2} in `before` and y_1 in `first`; the last one is followed by the reaction.
// `out` may be `before`, which is read at the own voxel alone. Rows of the table are the stages' coefficients and the
// reaction of a member.
extern "C" __global__ void __launch_bounds__(512) stage(
    REAL* out, const REAL* base, const REAL* y, const REAL* before, const REAL* first, const REAL* wx, const REAL* wy,
    const REAL* wz, const int* box, const REAL* local, const REAL* capacity, const REAL* table, int number, int stages,
    int fields, int nx, int ny, int nz)
{
    Voxel voxel;
    if (!find(voxel, box, nx, ny, nz)) return;
    const int at = voxel.at, plane = ny * nz;
    const REAL* member = table + voxel.member * (4 * stages + 2 + fields);
    const REAL c1 = member[4 * number], c2 = member[4 * number + 1], c3 = member[4 * number + 2];
    const REAL c4 = member[4 * number + 3];
    const REAL west = wx[at - plane], east = wx[at], south = wy[at - nz], north = wy[at], down = wz[at - 1], up = wz[at];
    const bool last = number == stages - 1, recursive = c2 != 0 || c3 != 0;
    Reaction reaction;
    reaction.row = member + 4 * stages;
    REAL spread = 0;
    for (int field = 0; field < fields; ++field) {
        const long long n = (long long)(voxel.member * fields + field) * nx * plane + at;
        const REAL u = base[n], v = y[n];
        REAL net = east * (y[n + plane] - v) + west * (y[n - plane] - v);
        net += north * (y[n + nz] - v) + south * (y[n - nz] - v);
        net += up * (y[n + 1] - v) + down * (y[n - 1] - v);
        // the derivative of the operator in log diffusivity is the operator on the density
        if (field == 0) spread = net;
        if (field == 1) net += spread;
        REAL made = u + c1 * (v - u) + c4 * net;
        if (recursive) made += c2 * (before[n] - u) + c3 * (first[n] - u);
        if (last) made = field == 0 ? reaction.density(made, local, capacity, at) : reaction.tangent(made, field);
        out[n] = made;
    }
}

// The reaction alone, in place; `table` holds nothing else.
extern "C" __global__ void __launch_bounds__(512) react(
    REAL* y, const int* box, const REAL* local, const REAL* capacity, const REAL* table, int fields, int nx, int ny,
    int nz)
{
    Voxel voxel;
    if (!find(voxel, box, nx, ny, nz)) return;
    Reaction reaction;
    reaction.row = table + voxel.member * (2 + fields);
    for (int field = 0; field < fields; ++field) {
        const long long n = (long long)(voxel.member * fields + field) * nx * ny * nz + voxel.at;
        y[n] = field == 0 ? reaction.density(y[n], local, capacity, voxel.at) : reaction.tangent(y[n], field);
    }
}

// First and last voxel, within the box, of a density above the threshold in any member, into six numbers that begin as
// large and small as can be. Only ends of runs look, and only better ones write.
extern "C" __global__ void __launch_bounds__(512) extent(
    int* found, const REAL* y, const int* box, REAL threshold, int fields, int nx, int ny, int nz)
{
    Voxel voxel;
    if (!find(voxel, box, nx, ny, nz)) return;
    const REAL* here = y + (long long)(voxel.member * fields) * nx * ny * nz + voxel.at;
    if (!(here[0] > threshold)) return;
    if (here[-1] > threshold && here[1] > threshold && voxel.k > box[2] && voxel.k + 1 < box[5]) return;
    if (voxel.i < found[0]) atomicMin(found, voxel.i);
    if (voxel.j < found[1]) atomicMin(found + 1, voxel.j);
    if (voxel.k < found[2]) atomicMin(found + 2, voxel.k);
    if (voxel.i > found[3]) atomicMax(found + 3, voxel.i);
    if (voxel.j > found[4]) atomicMax(found + 4, voxel.j);
    if (voxel.k > found[5]) atomicMax(found + 5, voxel.k);
}
