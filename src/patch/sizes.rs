//! What differing sizes mean for an apply.

use crate::device::DeviceMut;
use crate::error::{Error, Kind, Result};
use crate::units::SizeRule;

/// What to do about the size of a target; all sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizePlan {
    /// Size of the target before.
    pub before_bytes: u64,
    /// Records are written below this; what lies behind is dropped.
    pub limit_bytes: u64,
    /// The size to set, or `None` to leave it.
    pub resize_bytes: Option<u64>,
}

impl SizePlan {
    /// What `rule` means for a patch that makes a device of `patch_bytes`.
    ///
    /// # Errors
    /// `Kind::Size` when the sizes differ and the rule is strict, or the target cannot change
    /// its size. Nothing has been changed then.
    pub fn new(rule: SizeRule, target: &dyn DeviceMut, patch_bytes: u64) -> Result<Self> {
        let before_bytes = target.size();
        let plan = Self { before_bytes, limit_bytes: patch_bytes, resize_bytes: None };
        if before_bytes == patch_bytes {
            return Ok(plan);
        }
        let refused = |why: &str| {
            let what = format!(
                "{why}: the patch makes a device of {patch_bytes} bytes, found {before_bytes}"
            );
            Err(Error::new(Kind::Size, what).with_path(target.path()))
        };
        match rule {
            SizeRule::Strict => refused("sizes differ (see --diffsize)"),
            SizeRule::Resize if target.can_set_size() => {
                Ok(Self { resize_bytes: Some(patch_bytes), ..plan })
            }
            SizeRule::Resize => refused("a block device cannot change its size"),
            SizeRule::MinSize => Ok(Self { limit_bytes: before_bytes.min(patch_bytes), ..plan }),
        }
    }

    /// Grows the target if it has to: before its records are written.
    ///
    /// # Errors
    /// `Kind::Write`.
    pub fn grow(&self, target: &dyn DeviceMut) -> Result<()> {
        self.set(target, |wanted| wanted > self.before_bytes)
    }

    /// Whether the target loses its end.
    #[must_use]
    pub fn shrinks(&self) -> bool {
        self.resize_bytes.is_some_and(|wanted| wanted < self.before_bytes)
    }

    /// Shrinks the target if it has to: after its records are written and shown to be right, so
    /// that a patch that turns out to be cut or damaged has not cost the end of the device as well.
    ///
    /// # Errors
    /// `Kind::Write`.
    pub fn shrink(&self, target: &dyn DeviceMut) -> Result<()> {
        self.set(target, |_| self.shrinks())
    }

    fn set(&self, target: &dyn DeviceMut, applies: impl Fn(u64) -> bool) -> Result<()> {
        match self.resize_bytes {
            // Only the size: blocks that nothing is written to stay holes.
            Some(wanted) if applies(wanted) => target.set_size(wanted),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{MemoryDevice, TargetOptions, open_target};

    #[test]
    fn each_rule_has_its_plan() {
        let target = MemoryDevice::new([0; 10]);
        let plan = |rule, patch| SizePlan::new(rule, &target, patch);
        for rule in [SizeRule::Strict, SizeRule::Resize, SizeRule::MinSize] {
            let same = plan(rule, 10).unwrap();
            assert_eq!((same.limit_bytes, same.resize_bytes), (10, None));
        }
        for patch in [0, 9, 11] {
            assert_eq!(plan(SizeRule::Strict, patch).unwrap_err().kind(), Kind::Size);
            assert_eq!(plan(SizeRule::Resize, patch).unwrap().resize_bytes, Some(patch));
            let common = plan(SizeRule::MinSize, patch).unwrap();
            assert_eq!((common.limit_bytes, common.resize_bytes), (patch.min(10), None));
        }
    }

    #[test]
    fn device_that_cannot_change_its_size_is_refused() {
        let null = open_target("/dev/null", TargetOptions::default()).unwrap();
        let err = SizePlan::new(SizeRule::Resize, &null, 1).unwrap_err();
        assert_eq!(err.kind(), Kind::Size);
    }
}
