//! Tests of the build script's decisions: the toolkit, the accepted releases of nvcc, the architectures and
//! the source files.

#[path = "../build/nvcc.rs"]
mod nvcc;
#[path = "../build/sources.rs"]
mod sources;
#[path = "../build/toolkit.rs"]
mod toolkit;
#[path = "../build/version.rs"]
mod version;
#[path = "../build/watched.rs"]
mod watched;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use nvcc::Recipe;
use sources::Sources;
use toolkit::{NotFound, Search, Toolkit};
use version::Version;

/// The output of `nvcc --list-gpu-arch` in release 13.0, and in release 12.2, before Blackwell.
const KNOWN_13_0: &str = "compute_75\ncompute_80\ncompute_86\ncompute_87\ncompute_88\ncompute_89\n\
    compute_90\ncompute_100\ncompute_110\ncompute_103\ncompute_120\ncompute_121\n";
const KNOWN_12_2: &str = "compute_50\ncompute_52\ncompute_53\ncompute_60\ncompute_61\ncompute_62\n\
    compute_70\ncompute_72\ncompute_75\ncompute_80\ncompute_86\ncompute_87\ncompute_89\ncompute_90\n";

fn touch(file: &Path) {
    fs::create_dir_all(file.parent().expect("a file in a folder")).expect("a folder to write in");
    fs::write(file, "").expect("a file to write");
}

fn complete_toolkit(root: &Path, include: &str, library: &str) {
    touch(&root.join("bin/nvcc"));
    touch(&root.join(include).join("cuda_runtime.h"));
    touch(&root.join(library).join("libcudart_static.a"));
}

/// Searches only in `variables`, without the folders where this machine may have a toolkit.
fn search(workspace: &Path, variables: &[(&str, &Path)], arch: &str) -> Result<Toolkit, NotFound> {
    let variable = |name: &str| {
        let (_, value) = variables.iter().find(|(set, _)| *set == name)?;
        Some(OsString::from(value))
    };
    let mut search = Search::new(variable, workspace, arch);
    search.usual.retain(|folder| folder.starts_with(workspace));
    search.find()
}

#[test]
fn every_known_layout_is_found() {
    for (arch, include, library) in [
        ("x86_64", "targets/x86_64-linux/include", "targets/x86_64-linux/lib"),
        ("aarch64", "targets/sbsa-linux/include", "targets/sbsa-linux/lib"),
        ("x86_64", "include", "lib64"),
        ("x86_64", "include", "lib"),
        ("x86_64", "include", "lib/x86_64-linux-gnu"),
        ("aarch64", "include", "lib/aarch64-linux-gnu"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        complete_toolkit(home, include, library);

        let found = search(Path::new("/nowhere"), &[("CUDA_HOME", home)], arch).unwrap();
        assert_eq!(found.nvcc, home.join("bin/nvcc"), "{include}, {library}");
        assert_eq!(found.includes, [home.join(include)]);
        assert_eq!(found.library, home.join(library));
    }
}

#[test]
fn wheels_are_found_through_the_folder_they_were_installed_into() {
    let home = tempfile::tempdir().unwrap();
    let nested = home.path().join("nvidia/cu13");
    complete_toolkit(&nested, "include", "lib");
    touch(&nested.join("include/cccl/nv/target"));

    let found = search(Path::new("/nowhere"), &[("CUDA_PATH", home.path())], "x86_64").unwrap();
    assert_eq!(found.nvcc, nested.join("bin/nvcc"));
    assert_eq!(found.includes, [nested.join("include"), nested.join("include/cccl")]);
}

#[test]
fn variables_come_before_path_and_path_before_the_usual_places() {
    let place = tempfile::tempdir().unwrap();
    let named = place.path().join("named");
    let on_path = place.path().join("on-path");
    let own = place.path().join("target/cuda-toolkit/nvidia/cu13");
    for root in [&named, &on_path, &own] {
        complete_toolkit(root, "include", "lib64");
    }
    let path = on_path.join("bin");
    let nvcc =
        |variables: &[(&str, &Path)]| search(place.path(), variables, "x86_64").unwrap().nvcc;

    let exact = on_path.join("bin/nvcc");
    assert_eq!(nvcc(&[("NVCC", &exact), ("CUDA_ROOT", &named)]), exact);
    assert_eq!(nvcc(&[("CUDA_ROOT", &named), ("PATH", &path)]), named.join("bin/nvcc"));
    assert_eq!(nvcc(&[("PATH", &path)]), exact);
    assert_eq!(nvcc(&[("NVCC", Path::new("nvcc")), ("PATH", &path)]), exact);
    assert_eq!(nvcc(&[]), own.join("bin/nvcc"));
}

#[test]
fn a_link_to_nvcc_finds_its_toolkit() {
    let place = tempfile::tempdir().unwrap();
    let real = place.path().join("cuda-13.0");
    complete_toolkit(&real, "include", "lib64");
    let bin = place.path().join("usr/bin");
    fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(real.join("bin/nvcc"), bin.join("nvcc")).unwrap();

    let found = search(Path::new("/nowhere"), &[("PATH", &bin)], "x86_64").unwrap();
    assert_eq!(found.library, real.canonicalize().unwrap().join("lib64"));
}

#[test]
fn a_failed_search_names_the_tool_the_places_and_the_remedy() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    touch(&home.join("bin/nvcc"));
    touch(&home.join("include/cuda_runtime.h"));

    let message = search(place.path(), &[("CUDA_HOME", &home)], "x86_64").unwrap_err().to_string();
    for part in ["libcudart_static.a", "targets/x86_64-linux/lib", "lib64", "CUDA_HOME", "xtask"] {
        assert!(message.contains(part), "{part} is missing from: {message}");
    }

    // A wrong NVCC is an error, even if a toolkit is elsewhere.
    let wrong = place.path().join("no/nvcc");
    let message = search(place.path(), &[("NVCC", &wrong), ("CUDA_HOME", &home)], "x86_64")
        .unwrap_err()
        .to_string();
    assert!(message.contains(&wrong.display().to_string()), "{message}");
    assert!(!message.contains("(CUDA_HOME)"), "{message}");
}

#[test]
fn releases_from_12_2_are_accepted() {
    let accept =
        |release: &str| Version::accept(&format!("Cuda compilation tools, release {release}\n"));

    let version = accept("13.0, V13.0.88").unwrap();
    assert_eq!((version.to_string().as_str(), version.is_untried()), ("13.0", false));
    assert!(accept("12.2, V12.2.140").is_ok());
    assert!(accept("14.1, V14.1.0").unwrap().is_untried());
    assert!(accept("12.1, V12.1.105").unwrap_err().contains("12.2 or newer"));
    assert!(accept("11.8, V11.8.89").is_err());
    assert!(Version::accept("no compiler at all").unwrap_err().contains("no compiler at all"));
}

fn names(requested: Option<&str>, known: &str) -> Result<String, String> {
    let list = nvcc::architectures(requested, known)?;
    Ok(list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

#[test]
fn default_architectures_that_nvcc_does_not_know_are_left_out() {
    assert_eq!(names(None, KNOWN_13_0).unwrap(), "75 80 86 89 90 100 120");
    assert_eq!(names(None, KNOWN_12_2).unwrap(), "75 80 86 89 90");
    assert_eq!(names(Some(""), KNOWN_12_2).unwrap(), "75 80 86 89 90");
    assert!(names(None, "").is_err());
}

#[test]
fn requested_architectures_are_all_accepted_or_refused() {
    assert_eq!(names(Some("90"), KNOWN_13_0).unwrap(), "90");
    assert_eq!(names(Some("90;80"), KNOWN_13_0).unwrap(), "80 90");
    assert_eq!(names(Some("80, 90a,80"), KNOWN_13_0).unwrap(), "80 90a");
    for wrong in ["52", "80;130", "native", "sm_90", "8.9", ";"] {
        let error = names(Some(wrong), KNOWN_13_0).unwrap_err();
        assert!(error.contains("CUDA_SYS_ARCHS"), "{wrong}: {error}");
    }
}

#[test]
fn each_architecture_gets_machine_code_and_the_newest_ptx() {
    let list = nvcc::architectures(Some("80;120"), KNOWN_13_0).unwrap();
    assert_eq!(
        nvcc::code_generation(&list),
        [
            "-gencode=arch=compute_80,code=sm_80",
            "-gencode=arch=compute_120,code=sm_120",
            "-gencode=arch=compute_120,code=compute_120",
        ]
    );
}

#[test]
fn kernels_round_like_the_host_and_are_not_debug_builds() {
    let architectures = nvcc::architectures(Some("90"), KNOWN_13_0).unwrap();
    let mut recipe = Recipe {
        architectures: &architectures,
        include: Path::new("cuda/include"),
        host_compiler: Path::new("clang++"),
        warnings_are_errors: false,
        threads: 3,
    };
    let arguments = |recipe: &Recipe<'_>| -> Vec<String> {
        let list = recipe.arguments(Path::new("a.cu"), Path::new("a.o"));
        list.into_iter().map(|argument| argument.into_string().unwrap()).collect()
    };

    let relaxed = arguments(&recipe);
    for flag in ["--fmad=false", "-std=c++17", "-lineinfo", "--threads=3", "clang++", "a.cu"] {
        assert!(relaxed.iter().any(|argument| argument == flag), "{flag} is not in {relaxed:?}");
    }
    assert!(relaxed.iter().any(|flag| flag.contains("-ffp-contract=off")));
    for flag in ["-G", "-rdc", "--use_fast_math", "-Werror"] {
        assert!(!relaxed.iter().any(|argument| argument.contains(flag)), "{flag}: {relaxed:?}");
    }

    recipe.warnings_are_errors = true;
    assert!(arguments(&recipe).iter().any(|flag| flag == "--Werror=all-warnings"));
}

#[test]
fn sources_are_sorted_into_those_that_need_cuda_and_those_that_do_not() {
    let tree = tempfile::tempdir().unwrap();
    let tree = tree.path();
    for file in ["src/b.cpp", "src/a.cpp", "src/host/c.cpp", "src/cuda/d.cpp", "src/note.md"] {
        touch(&tree.join(file));
    }
    touch(&tree.join("kernels/e.cu"));
    touch(&tree.join("kernels/f/e.cu"));
    touch(&tree.join("kernels/g.cuh"));

    let found = Sources::collect(tree).unwrap();
    assert_eq!(found.host, ["src/a.cpp", "src/b.cpp", "src/host/c.cpp"].map(|f| tree.join(f)));
    assert_eq!(found.runtime, [tree.join("src/cuda/d.cpp")]);
    assert_eq!(found.kernels, ["kernels/e.cu", "kernels/f/e.cu"].map(|f| tree.join(f)));

    for file in ["src/measure.cpp", "src/measure_host.cpp", "src/cuda/measure_cuda.cpp"] {
        touch(&tree.join(file));
    }
    assert_eq!(Sources::collect(tree).unwrap().without_measuring(), found);
}

#[test]
fn kernels_of_equal_name_get_different_objects() {
    let object = |kernel: &str| {
        sources::object_path(Path::new(kernel), Path::new("kernels"), Path::new("out"))
    };
    assert_eq!(object("kernels/e.cu"), Path::new("out/e.cu.o"));
    assert_eq!(object("kernels/f/e.cu"), Path::new("out/f-e.cu.o"));
}

/// A runtime call that the fault matrix does not intercept would never fail in a test.
#[test]
fn the_fault_matrix_watches_every_call_of_the_runtime() {
    // They report failures, or look up the driver's functions, which the linker cannot wrap.
    const UNWATCHED: [&str; 4] = [
        "cudaGetDriverEntryPoint",
        "cudaGetDriverEntryPointByVersion",
        "cudaGetErrorName",
        "cudaGetErrorString",
    ];
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let sources = Sources::collect(&tree).expect("the C++ tree");
    let headers = ["src/cuda", "kernels"].map(|folder| tree.join(folder)).into_iter();
    let headers = headers.flat_map(|folder| fs::read_dir(folder).expect("a folder of the tree"));
    let headers = headers.map(|entry| entry.expect("a file of the tree").path());
    let files: BTreeSet<_> =
        sources.runtime.into_iter().chain(sources.kernels).chain(headers).collect();
    let mut called = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file");
        for (start, _) in text.match_indices("cuda") {
            let name: String =
                text[start..].chars().take_while(char::is_ascii_alphanumeric).collect();
            let is_function = name.chars().nth(4).is_some_and(|c| c.is_ascii_uppercase());
            if is_function && text[start + name.len()..].starts_with('(') {
                called.insert(name);
            }
        }
    }
    // A template in a header, which calls this function.
    if called.remove("cudaLaunchKernelEx") {
        called.insert("cudaLaunchKernelExC".to_owned());
    }
    assert!(called.contains("cudaMalloc"), "no calls were found");
    called.retain(|name| {
        let name = name.as_str();
        !watched::FUNCTIONS.contains(&name) && !UNWATCHED.contains(&name)
    });
    assert_eq!(called, BTreeSet::new());
}
