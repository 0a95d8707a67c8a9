//! Boots a kernel with nothing but an entropy device and tells how it ended.
//!
//! ```text
//! cargo run -p podvmm-vmm --example embed -- VMLINUX INITRAMFS [PARAMETER...]
//! ```

use std::error::Error;
use std::fs::File;

use devices::rng::Rng;
use podvmm_vmm::{MemorySize, StopReason, VcpuCount, VmBuilder};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(kernel), Some(initrd)) = (args.next(), args.next()) else {
        return Err("usage: embed VMLINUX INITRAMFS [PARAMETER...]".into());
    };

    let vm = VmBuilder::new(File::open(kernel)?)
        .initrd(File::open(initrd)?)
        .cmdline(args.collect::<Vec<_>>().join(" "))
        .vcpus(VcpuCount::new(1)?)
        .memory(MemorySize::from_mib(256)?)
        .device(Box::new(Rng))
        .build()?;

    // A handle stops the machine from any other thread: on a signal, a time limit, a request.
    let handle = vm.handle();
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(60));
        handle.stop();
    });

    let stop = vm.run()?;
    match stop.reason {
        StopReason::PowerOff | StopReason::Reset => println!("the guest is done"),
        StopReason::Stopped => println!("it took too long and was stopped"),
        StopReason::Panic { message } => println!("the guest's kernel panicked: {message}"),
        StopReason::TripleFault => println!("the guest crashed:\n{}", stop.console),
        StopReason::Failed(error) => return Err(error.into()),
    }
    Ok(())
}
