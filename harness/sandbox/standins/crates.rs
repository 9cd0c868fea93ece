
// Stand-ins for the crates that HumanEvalPack's prompts import. rand draws the same numbers in every run; of regex there
// is only the name.
#[allow(dead_code)]
mod rand {
    use std::cell::Cell;
    thread_local!(static STATE: Cell<u64> = Cell::new(0x9E37_79B9_7F4A_7C15));

    fn draw() -> u64 {
        STATE.with(|state| {
            let mut x = state.get();
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            state.set(x);
            x >> 16
        })
    }
    pub trait Drawn: Copy {
        fn any() -> Self;
        fn between(low: Self, high: Self) -> Self;
    }
    macro_rules! drawn {
        ($($kind:ty),*) => {$(impl Drawn for $kind {
            fn any() -> Self { draw() as $kind }
            fn between(low: Self, high: Self) -> Self {
                (low as i128 + draw() as i128 % (high as i128 - low as i128)) as $kind
            }
        })*};
    }
    drawn!(i8, i16, i32, i64, isize, u8, u16, u32, u64, usize);

    pub trait Rng {
        fn gen<T: Drawn>(&mut self) -> T { T::any() }
        fn gen_range<T: Drawn>(&mut self, low: T, high: T) -> T { T::between(low, high) }
    }
    pub struct ThreadRng;
    impl Rng for ThreadRng {}
    pub fn thread_rng() -> ThreadRng { ThreadRng }
    pub fn random<T: Drawn>() -> T { T::any() }
}
#[allow(dead_code)]
mod regex {
    pub struct Regex;
}
