//! The server gives up what it no longer needs once its device is open.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus,
    Scope,
};

/// The newest kernel interface whose restrictions are asked for; older kernels give what they
/// have.
const NEWEST: ABI = ABI::V6;

/// Gives up, for this thread and all that it starts from now on: gaining privileges, opening
/// any file, binding and connecting to network ports, signals to and abstract sockets of other
/// processes. What is open stays open: the device, the connection, stderr, syslog, the report.
///
/// As far as the kernel can; where it cannot at all, nothing is lost but this second wall.
pub fn confine() {
    if let Err(err) = nix::sys::prctl::set_no_new_privs() {
        log::debug!("cannot set no_new_privs: {err}");
    }
    match restrict() {
        Ok(RulesetStatus::NotEnforced) => log::debug!("this kernel has no Landlock"),
        Ok(status) => log::debug!("confined by Landlock: {status:?}"),
        Err(err) => log::debug!("cannot confine the process with Landlock: {err}"),
    }
}

fn restrict() -> Result<RulesetStatus, landlock::RulesetError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    Ok(ruleset.create()?.restrict_self()?.ruleset)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::thread;

    use super::*;

    #[test]
    fn a_confined_thread_keeps_what_is_open_and_opens_nothing() {
        // Only this thread and its children: the other tests go on as before.
        let confined = thread::spawn(|| {
            let path = std::env::current_exe().unwrap();
            let mut before = File::open(&path).unwrap();
            confine();
            let child = thread::spawn(move || File::open(path).map(drop));
            before.read_exact(&mut [0; 4]).unwrap();
            (restrict().unwrap(), child.join().unwrap())
        });
        let (status, opened) = confined.join().unwrap();
        if status == RulesetStatus::NotEnforced {
            eprintln!("skipping: this kernel has no Landlock");
            return;
        }
        assert_eq!(opened.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    }
}
