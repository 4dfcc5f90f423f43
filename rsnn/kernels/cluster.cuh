// What kernels of clusters of blocks need (compute capability 9.0); the text between tensor_core.cuh and theirs.

#ifdef __CUDACC__
#define CLUSTER_OF(blocks) __cluster_dims__(blocks, 1, 1)

// What a launch gives each block beside what it declares.
__device__ __forceinline__ void* shared_memory() {
    extern __shared__ uint4 memory[];
    return memory;
}
// Waits for all threads of the cluster; what they wrote to any memory is there then. Takes as long as all writes of theirs
// to global memory: for once, not for each step.
__device__ __forceinline__ void cluster_together() {
    asm volatile("fence.mbarrier_init.release.cluster;\nbarrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
}

// Tells a block that all that other blocks send it has come: an mbarrier in its shared memory.
typedef unsigned long long Signal;
__device__ __forceinline__ void make(Signal* signal) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(signal)) : "memory");
}
// Ends a phase once so many bytes have come. The next one may be expected when this has ended.
__device__ __forceinline__ void expect(Signal* signal, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(signal)), "r"(bytes)
                 : "memory");
}
// Waits for the end of a phase: they are 0 and 1 by turns.
__device__ __forceinline__ void await_signal(Signal* signal, int phase) {
    asm volatile(
        "{\n.reg .pred ends;\nagain:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 ends, [%0], %1;\n@!ends bra again;\n}" ::"r"(shared_address(signal)),
        "r"(phase)
        : "memory");
}
// Writes to another block's shared memory, where this block has `here`, and counts the bytes for its `signal`.
__device__ __forceinline__ void send(const void* here, unsigned value, const Signal* signal, int rank) {
    asm volatile(
        "{\n.reg .u32 there, told;\nmapa.shared::cluster.u32 there, %0, %3;\nmapa.shared::cluster.u32 told, %2, %3;\n"
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [there], %1, [told];\n}" ::"r"(shared_address(here)),
        "r"(value), "r"(shared_address(signal)), "r"(rank)
        : "memory");
}
#else
#define CLUSTER_OF(blocks)
#endif
