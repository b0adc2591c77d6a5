//! Records of plain numbers that cross by the hundred: their bytes go into and out of a guest's memory in one piece.
//!
//! What `wasmtime` derives looks the guest's memory up for each field of each record anew, which costs ten times as much. The layout is
//! that of the canonical ABI; that a guest's record has these fields, of these types, in this order, is checked when it is loaded,
//! as for every other type.

/// Declares a row: a record whose fields are `u64` and `u32` without a gap between two.
macro_rules! row {
    ($(#[$doc:meta])* $row:ident { $($field:ident $name:literal: $number:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ComponentType)]
        #[component(record)]
        pub struct $row {
            $(#[component(name = $name)] pub $field: $number,)*
        }

        const _: () = {
            let numbers = [$(size_of::<$number>()),*];
            assert!($crate::policy::row::bytes(&numbers) == <$row as ComponentType>::SIZE32);
        };

        #[expect(unsafe_code, reason = "as a type crosses is for the implementer to say; what is to hold is asserted above")]
        // SAFETY: all of the row's bytes are written, in the order and with the sizes that `ComponentType` has checked.
        unsafe impl Lower for $row {
            fn linear_lower_to_flat<T>(
                &self,
                _: &mut LowerContext<'_, T>,
                _: InterfaceType,
                _: &mut MaybeUninit<Self::Lower>,
            ) -> wasmtime::Result<()> {
                wasmtime::bail!("rows cross in lists")
            }

            fn linear_lower_to_memory<T>(
                &self,
                memory: &mut LowerContext<'_, T>,
                row: InterfaceType,
                offset: usize,
            ) -> wasmtime::Result<()> {
                Self::linear_store_list_to_memory(memory, row, offset, std::slice::from_ref(self))
            }

            fn linear_store_list_to_memory<T>(
                memory: &mut LowerContext<'_, T>,
                _: InterfaceType,
                offset: usize,
                rows: &[Self],
            ) -> wasmtime::Result<()> {
                let memory = &mut memory.as_slice_mut()[offset..][..rows.len() * Self::SIZE32];
                for (bytes, row) in memory.chunks_exact_mut(Self::SIZE32).zip(rows) {
                    let rest = bytes;
                    $(
                        let (number, rest) = rest.split_first_chunk_mut().expect("a row has room for its fields");
                        *number = row.$field.to_le_bytes();
                    )*
                    // What is left fills the last word up.
                    let _ = rest;
                }
                Ok(())
            }
        }

        #[expect(unsafe_code, reason = "as a type crosses is for the implementer to say; what is to hold is asserted above")]
        // SAFETY: any bytes are a row.
        unsafe impl Lift for $row {
            fn linear_lift_from_flat(
                _: &mut LiftContext<'_>,
                _: InterfaceType,
                _: &Self::Lower,
            ) -> wasmtime::Result<Self> {
                wasmtime::bail!("rows cross in lists")
            }

            fn linear_lift_from_memory(
                _: &mut LiftContext<'_>,
                _: InterfaceType,
                bytes: &[u8],
            ) -> wasmtime::Result<Self> {
                let rest = bytes;
                $(
                    let (number, rest) = rest.split_first_chunk().expect("a row has room for its fields");
                    let $field = <$number>::from_le_bytes(*number);
                )*
                // What is left fills the last word up.
                let _ = rest;
                Ok(Self { $($field),* })
            }
        }
    };
}

pub(super) use row;

/// Bytes of a row with numbers of these sizes.
///
/// # Panics
/// If there would be a gap between two of them.
pub(super) const fn bytes(numbers: &[usize]) -> usize {
    let (mut bytes, mut largest, mut at) = (0usize, 1, 0);
    while at < numbers.len() {
        assert!(bytes.is_multiple_of(numbers[at]), "a number is where its size divides");
        bytes += numbers[at];
        if numbers[at] > largest {
            largest = numbers[at];
        }
        at += 1;
    }
    bytes.next_multiple_of(largest)
}
