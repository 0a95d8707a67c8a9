//! Generates messages and client from `proto/agent.proto`, without protoc.

use std::path::PathBuf;
use std::{env, fs, io};

use ttrpc_codegen::{Codegen, ProtobufCustomize};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=proto/agent.proto");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    Codegen::new()
        .out_dir(&out_dir)
        .input("proto/agent.proto")
        .include("proto")
        .rust_protobuf()
        // Reflection would add to the agent's size, and nothing here uses it.
        .rust_protobuf_customize(ProtobufCustomize::default().lite_runtime(true))
        .run()?;
    // The generated files open with inner attributes, so they can only be modules of their own.
    fs::write(
        out_dir.join("modules.rs"),
        "pub mod agent;\npub mod agent_ttrpc;\n",
    )
}
