//! Instructions that only some processors have and that [`pulp`] does not know.

pub(crate) use imp::PairProducts;

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::arch::x86_64::_mm512_dpbf16_ps;

    use pulp::core_arch::x86::Avx512bf16;
    use pulp::x86::V4;
    use pulp::{Arch, bytemuck};

    use crate::engine::matmul::{MultiplyAdd, Product};
    use crate::vectors::arch;

    /// Products of pairs of bf16 with AVX-512, on processors that have these instructions, which is what a value stands for.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct PairProducts {
        simd: V4,
        _bf16: Avx512bf16,
    }

    impl PairProducts {
        pub(crate) fn try_new() -> Option<Self> {
            let Arch::V4(simd) = arch() else { return None };
            Some(Self { simd, _bf16: Avx512bf16::try_new()? })
        }

        #[allow(unsafe_code)]
        pub(crate) fn run(self, product: Product<'_, u32>) {
            // What V4 stands for, and avx512bf16: all that is inlined is compiled for these.
            #[target_feature(enable = "avx2,bmi1,bmi2,fma,lzcnt,popcnt")]
            #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
            fn tiles(kernel: PairProducts, product: Product<'_, u32>) {
                product.tiles(kernel.simd, kernel);
            }
            // SAFETY: `self` exists, so the processor has the instructions.
            unsafe { tiles(self, product) }
        }
    }

    impl MultiplyAdd<V4, u32> for PairProducts {
        #[inline(always)]
        #[allow(unsafe_code)]
        fn multiply_add(self, _simd: V4, left: pulp::u32x16, right: pulp::u32x16, sum: pulp::f32x16) -> pulp::f32x16 {
            // SAFETY: `self` exists, so the processor has the instruction. It reads and writes registers only.
            let sum = unsafe { _mm512_dpbf16_ps(bytemuck::cast(sum), bytemuck::cast(left), bytemuck::cast(right)) };
            bytemuck::cast(sum)
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    use crate::engine::matmul::Product;

    /// None of them here.
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum PairProducts {}

    impl PairProducts {
        pub(crate) fn try_new() -> Option<Self> {
            None
        }

        pub(crate) fn run(self, _product: Product<'_, u32>) {
            match self {}
        }
    }
}
