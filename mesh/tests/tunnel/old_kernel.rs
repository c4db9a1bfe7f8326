//! A kernel without the offloads of newer ones, as far as a filter of system calls makes one: no
//! `TUNSETOFFLOAD` (TSO, USO), no `UDP_GRO`.

use super::carries_everything;
use super::netns::isolated;
use super::pair::peered;

/// The offsets of the system call's number, and of the low halves of its second and third arguments,
/// in what a filter sees (`struct seccomp_data`).
const NUMBER: u32 = 0;
const SECOND: u32 = if cfg!(target_endian = "little") {
    24
} else {
    28
};
const THIRD: u32 = SECOND + 8;

/// From now on this thread, and what it starts, is without them.
#[allow(unsafe_code)]
fn without_offloads() {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let refuse = |errno: i32| step(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0);
    let mut program = [
        step(LOAD, NUMBER, 0, 0),
        step(IS, libc::SYS_ioctl as u32, 0, 5),
        step(LOAD, SECOND, 0, 0),
        step(IS, libc::TUNSETOFFLOAD as u32, 0, 7),
        step(LOAD, THIRD, 0, 0),
        // Every kernel can do nothing.
        step(IS, 0, 5, 0),
        refuse(libc::EINVAL),
        step(IS, libc::SYS_setsockopt as u32, 0, 3),
        step(LOAD, SECOND, 0, 0),
        step(IS, libc::SOL_UDP as u32, 0, 1),
        refuse(libc::ENOPROTOOPT),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: prctl reads the program, which lives through both calls.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const filter,
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_kernel_without_offloads_carries_everything() {
    isolated(
        "old_kernel::a_kernel_without_offloads_carries_everything",
        || {
            without_offloads();
            let (a, b) = peered();
            carries_everything(&a, &b);
        },
    );
}
