// C = A B, the matrices shared out among threads block by block, each block by oneDNN's kernel.
//
// M N K: C is (M, N), A (M, K), B (K, N). LDA, LDB: numbers from one row in memory to the next. TA, TB: the matrix lies
// in memory transposed. S: float, or at::BFloat16, with K even and also LDB where TB. C is float.
#ifndef VAE_LIGHTNING_MATMUL
#define VAE_LIGHTNING_MATMUL
#include <ATen/cpu/vec/vec_half.h>
#include <algorithm>
#include <omp.h>
#include <vector>

namespace at::native::cpublas {
// A by rows; B by rows, and if it is of bfloat16 then two rows interleaved: the kernel is compiled once for each shape
void brgemm(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, const float*, const float*, float*, bool);
void brgemm(
    int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, const BFloat16*, const BFloat16*, float*, bool);
void brgemm_release(bool);
} // namespace at::native::cpublas

namespace vae_lightning {
using Half = at::BFloat16;

constexpr int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// memory of this thread, on a cache line of its own, kept for the next product
template <int which>
float* space(size_t size) {
    static thread_local std::vector<float> buffer;
    if (buffer.size() < size + 16) buffer.resize(size + 16);
    return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(buffer.data()) + 63) & ~uintptr_t{63});
}

inline const float* transposed(const float* from, int64_t ld, float* to, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; i += 16)
        for (int64_t j = 0; j < columns; j += 16)
            at::vec::transpose_mxn<float>(from + i * ld + j, ld, to + j * rows + i, rows,
                std::min<int64_t>(16, rows - i), std::min<int64_t>(16, columns - j));
    return to;
}

// a block of A that lies as (inner, rows), by rows
inline const float* left(const float* from, int64_t ld, int64_t rows, int64_t inner) {
    return transposed(from, ld, space<0>(rows * inner), inner, rows);
}
inline const Half* left(const Half* from, int64_t ld, int64_t rows, int64_t inner) {
    float* pairs = space<1>(rows * inner / 2);
    at::vec::pack_vnni2(from, reinterpret_cast<Half*>(pairs), ld, inner, rows);
    return reinterpret_cast<const Half*>(transposed(pairs, rows, space<0>(rows * inner / 2), inner / 2, rows));
}

// a block of B that lies as (columns, inner), or for bfloat16 any, as the kernel takes it
inline const float* right(const float* from, int64_t ld, int64_t inner, int64_t columns, bool) {
    return transposed(from, ld, space<2>(inner * columns), columns, inner);
}
inline const Half* right(const Half* from, int64_t ld, int64_t inner, int64_t columns, bool turn) {
    float* pairs = space<2>(inner * columns / 2);
    if (turn)
        transposed(reinterpret_cast<const float*>(from), ld / 2, pairs, columns, inner / 2);
    else
        at::vec::pack_vnni2(from, reinterpret_cast<Half*>(pairs), ld, inner, columns);
    return reinterpret_cast<const Half*>(pairs);
}

template <typename S>
void matmul(const S* A, const S* B, float* C, int64_t M, int64_t N, int64_t K, int64_t LDA, int64_t LDB, bool TA,
    bool TB) {
    constexpr bool half = sizeof(S) == 2;
    const int64_t threads = omp_get_max_threads();
    // the threads divide first that side of C whose blocks have to be turned: those of A are its rows
    const int64_t most_m = std::clamp<int64_t>(M / 16, 1, threads), most_n = std::clamp<int64_t>(N / 64, 1, threads);
    const int64_t own_m = parts(M, TA ? most_m : threads / most_n);
    const int64_t own_n = 16 * parts(parts(N, TA ? threads / most_m : most_n), 16);
    // blocks that stay in the second-level cache
    const int64_t block_m = TA || TB ? own_m : std::min<int64_t>(256, own_m), block_n = 64, block_k = 1024;
    auto block = [&](int64_t m, int64_t first) {
        const int64_t rows = std::min(block_m, M - m), end = std::min(N, first + own_n);
        for (int64_t k = 0; k < K; k += block_k) {
            const int64_t inner = std::min(block_k, K - k);
            const S* a = TA ? left(A + k * LDA + m, LDA, rows, inner) : A + m * LDA + k;
            for (int64_t n = first; n < end; n += block_n) {
                const int64_t columns = std::min(block_n, end - n);
                const S* b = B + (TB ? n * LDB + k : k * LDB + n);
                if (TB || half) b = right(b, LDB, inner, columns, TB);
                at::native::cpublas::brgemm(rows, columns, inner, TA ? inner : LDA, TB || half ? columns : LDB, N,
                    k > 0, a, b, C + m * N + n, half);
            }
        }
    };
    #pragma omp parallel
    {
        #pragma omp for collapse(2)
        for (int64_t m = 0; m < M; m += block_m)
            for (int64_t first = 0; first < N; first += own_n) block(m, first);
        if (half) at::native::cpublas::brgemm_release(true); // registers that AMX holds
    }
}
} // namespace vae_lightning
#endif
