//! Tests of the build script's decisions: the toolkit, the accepted releases of nvcc, the architectures and
//! the source files.

#[path = "../build/architectures.rs"]
mod architectures;
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

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use architectures::{Request, Targets};
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

/// The output of `nvcc -arch=native --dryrun` on a machine with GPUs, and on one without, shortened.
const DRY_RUN_GPUS: &str = "#$ _NVVM_BRANCH_=nvvm\n\
    #$ gcc -D__CUDA_ARCH_LIST__=860,900 -E -x c++ \"a.cu\" -o \"a.ii\"\n\
    #$ gcc -D__CUDA_ARCH__=860 -D__CUDA_ARCH_LIST__=860,900 -E -x c++ \"a.cu\"\n";
const DRY_RUN_NO_GPU: &str = "nvcc warning : Cannot find valid GPU for '-arch=native', default arch is used\n\
    #$ gcc -D__CUDA_ARCH_LIST__=750 -E -x c++ \"a.cu\" -o \"a.ii\"\n";

/// Returns the targets for the variables that are set.
fn targets_of(variables: &[(&str, &str)], known: &str, dry_run: &str) -> Result<Targets, String> {
    let request = Request::choose(|name| {
        let (_, value) = variables.iter().find(|(set, _)| *set == name)?;
        Some(OsString::from(value))
    });
    architectures::targets(request.as_ref(), known, || Ok(dry_run.to_owned()))
}

fn codes_of(value: &str) -> Result<String, String> {
    targets_of(&[("CUDAARCHS", value)], KNOWN_13_0, DRY_RUN_GPUS).map(|targets| targets.to_string())
}

#[test]
fn default_architectures_that_nvcc_does_not_know_are_left_out() {
    let default = |known| targets_of(&[], known, "").map(|targets| targets.to_string());
    let newest = "sm_75 sm_80 sm_86 sm_89 sm_90 sm_100 sm_120 compute_120";
    assert_eq!(default(KNOWN_13_0).unwrap(), newest);
    assert_eq!(default(KNOWN_12_2).unwrap(), "sm_75 sm_80 sm_86 sm_89 sm_90 compute_90");
    assert!(default("").unwrap_err().contains("knows none"));
}

#[test]
fn each_spelling_of_an_architecture_is_understood() {
    for (value, want) in [
        ("90", "sm_90 compute_90"),
        ("sm_90", "sm_90 compute_90"),
        ("9.0", "sm_90 compute_90"),
        ("8.9", "sm_89 compute_89"),
        ("12.1", "sm_121 compute_121"),
        ("90;80", "sm_80 sm_90 compute_90"),
        ("80, 90,80", "sm_80 sm_90 compute_90"),
        ("8.6 sm_90;;100\n", "sm_86 sm_90 sm_100 compute_100"),
        // Machine code only, and PTX only.
        ("90-real", "sm_90"),
        ("90-virtual", "compute_90"),
        ("80-real;90-virtual", "sm_80 compute_90"),
        ("80;90-real", "sm_80 sm_90 compute_80"),
        ("80-virtual;90", "sm_90 compute_80 compute_90"),
        // PTX with extensions of one GPU runs on no later GPU.
        ("90a", "sm_90a"),
        ("80;90a", "sm_80 sm_90a compute_80"),
        ("sm_90a-real;100f", "sm_90a sm_100f"),
        ("90a-virtual", "compute_90a"),
    ] {
        assert_eq!(codes_of(value).as_deref(), Ok(want), "{value}");
    }
}

#[test]
fn all_and_all_major_start_with_turing() {
    let all = |value, known| {
        targets_of(&[("CUDAARCHS", value)], known, "").map(|targets| targets.to_string()).unwrap()
    };
    assert_eq!(
        all("all", KNOWN_13_0),
        "sm_75 sm_80 sm_86 sm_87 sm_88 sm_89 sm_90 sm_100 sm_103 sm_110 sm_120 sm_121 compute_120"
    );
    assert_eq!(all("all", KNOWN_12_2), "sm_75 sm_80 sm_86 sm_87 sm_89 sm_90 compute_90");
    assert_eq!(all("all-major", KNOWN_13_0), "sm_75 sm_80 sm_90 sm_100 sm_110 sm_120 compute_120");
}

#[test]
fn native_means_the_gpus_of_this_machine() {
    assert_eq!(codes_of("native").unwrap(), "sm_86 sm_90 compute_90");

    let native = |known, dry_run| targets_of(&[("CUDAARCHS", "native")], known, dry_run);
    for nothing in [DRY_RUN_NO_GPU, ""] {
        let error = native(KNOWN_13_0, nothing).unwrap_err();
        assert!(error.contains("CUDAARCHS=native") && error.contains("no GPU"), "{error}");
    }
    let newer = DRY_RUN_GPUS.replace("900", "1300");
    let error = native(KNOWN_13_0, &newer).unwrap_err();
    assert!(error.contains("does not know the architecture 130"), "{error}");

    // Without `native`, nvcc is not asked.
    let request = Request::choose(|name| (name == "CUDAARCHS").then(|| "90".into()));
    let not_asked = || panic!("nvcc was asked for GPUs");
    assert!(architectures::targets(request.as_ref(), KNOWN_13_0, not_asked).is_ok());
}

#[test]
fn a_wrong_value_is_an_error_that_names_the_variable_and_shows_a_right_one() {
    for (value, problem) in [
        (";", "names no architecture"),
        ("52", "does not know the architecture 52; it knows 75, 80"),
        ("80;130", "does not know the architecture 130"),
        ("12.10", "`12.10` is no architecture"),
        ("sm_9.0", "`sm_9.0` is no architecture"),
        ("+90", "`+90` is no architecture"),
        ("90b", "`90b` is no architecture"),
        ("-real", "`-real` is no architecture"),
        ("90-real-virtual", "`90-real-virtual` is no architecture"),
        ("9.0+PTX", "`9.0+PTX` is no architecture"),
        ("compute_90", "`compute_90` is no architecture"),
        ("OFF", "`OFF` is no architecture"),
        ("99999999999", "`99999999999` is no architecture"),
        ("4294967295.9", "`4294967295.9` is no architecture"),
        ("80;native", "`native` must be alone"),
        ("all;all-major", "`all` must be alone"),
    ] {
        for variable in architectures::VARIABLES {
            let error = targets_of(&[(variable, value)], KNOWN_13_0, DRY_RUN_GPUS).unwrap_err();
            assert!(error.starts_with(&format!("{variable}={value}: ")), "{error}");
            assert!(error.contains(problem), "{value}: {error}");
            assert!(error.contains("80;90"), "{error}");
        }
    }
}

#[test]
fn the_first_variable_that_is_not_empty_counts_and_all_are_read() {
    let [own, cmake, capability] = architectures::VARIABLES;
    for (variables, want) in [
        (&[(own, "80"), (cmake, "86"), (capability, "90")] as &[_], "sm_80 compute_80"),
        (&[(own, ""), (cmake, "86"), (capability, "90")], "sm_86 compute_86"),
        (&[(own, " "), (cmake, ""), (capability, "9.0")], "sm_90 compute_90"),
        // A wrong value of a variable that does not count is no error.
        (&[(own, "80"), (cmake, "OFF")], "sm_80 compute_80"),
    ] {
        let targets = targets_of(variables, KNOWN_13_0, "").unwrap();
        assert_eq!(targets.to_string(), want, "{variables:?}");
    }

    // Cargo runs the build script again only for variables that it has read.
    let read = RefCell::new(Vec::new());
    Request::choose(|name| {
        read.borrow_mut().push(name.to_owned());
        Some("80".into())
    });
    assert_eq!(*read.borrow(), architectures::VARIABLES);
}

#[test]
fn flags_name_the_virtual_and_the_real_architecture() {
    let targets = targets_of(&[("CUDA_SYS_ARCHS", "80;120")], KNOWN_13_0, "").unwrap();
    assert_eq!(
        targets.flags(),
        [
            "-gencode=arch=compute_80,code=sm_80",
            "-gencode=arch=compute_120,code=sm_120",
            "-gencode=arch=compute_120,code=compute_120",
        ]
    );
}

#[test]
fn kernels_round_like_the_host_and_are_not_debug_builds() {
    let targets = targets_of(&[("CUDA_SYS_ARCHS", "90")], KNOWN_13_0, "").unwrap();
    let mut recipe = Recipe {
        targets: &targets,
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
    const UNWATCHED: [&str; 6] = [
        "cudaDriverGetVersion",
        "cudaGetDriverEntryPoint",
        "cudaGetDriverEntryPointByVersion",
        "cudaGetErrorName",
        "cudaGetErrorString",
        "cudaRuntimeGetVersion",
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
