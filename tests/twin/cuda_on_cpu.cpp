// CUDA's words for a C++ compiler, and a launch that runs all threads of a kernel one after another on the CPU.
// Arguments come as addresses, as the driver takes them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

using std::exp, std::expm1, std::log, std::max, std::min;

#define __global__
#define __device__
#define __launch_bounds__(threads)

struct dim3 {
    unsigned x, y, z;
};
static dim3 blockIdx, blockDim, threadIdx;

static void atomicMin(int* at, int value) { *at = min(*at, value); }
static void atomicMax(int* at, int value) { *at = max(*at, value); }

#include KERNEL_SOURCE

struct Call {
    dim3 grid, block;
    void** values;
    const int* sizes;
    int count;
    bool backwards;
};

static dim3 place(unsigned n, dim3 of) { return {n % of.x, n / of.x % of.y, n / of.x / of.y}; }

template <class... A, std::size_t... N>
static bool run(void (*kernel)(A...), const Call& call, std::index_sequence<N...>)
{
    const int expected[] = {int(sizeof(A))...};
    if (call.count != int(sizeof...(A)) || !std::equal(expected, expected + call.count, call.sizes)) return false;
    const unsigned blocks = call.grid.x * call.grid.y * call.grid.z;
    const unsigned threads = call.block.x * call.block.y * call.block.z;
    blockDim = call.block;
    for (unsigned long long n = 0; n < (unsigned long long)blocks * threads; ++n) {
        const unsigned long long m = call.backwards ? (unsigned long long)blocks * threads - 1 - n : n;
        blockIdx = place(unsigned(m / threads), call.grid);
        threadIdx = place(unsigned(m % threads), call.block);
        kernel(*static_cast<A*>(call.values[N])...);
    }
    return true;
}

template <class... A>
static bool run(void (*kernel)(A...), const Call& call)
{
    return run(kernel, call, std::index_sequence_for<A...>{});
}

// False if there is no such kernel or if it takes other arguments.
extern "C" bool launch(
    const char* name, const unsigned* grid, const unsigned* block, void** values, const int* sizes, int count,
    bool backwards)
{
    const Call call{{grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, values, sizes, count, backwards};
#define KERNEL(kernel) if (!std::strcmp(name, #kernel)) return run(kernel, call)
    KERNEL(stage);
    KERNEL(react);
    KERNEL(extent);
    return false;
}
