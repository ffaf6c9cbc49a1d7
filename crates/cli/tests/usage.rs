//! The command line itself: help, usage errors, exit codes, settings.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod cli;

use cli::{MODEL, finish, quintet, run};
use insta::assert_snapshot;

#[test]
fn the_help_is_the_tour() {
    assert_snapshot!(run(&["--help"]).shown(), @r#"
    exit 0
    --- stdout
    Embeddings of jina-embeddings-v3 on your own machine: five tasks, 8192 tokens, any language

    Usage: quintet <COMMAND> [OPTIONS]

    Embed:
      embed       Turn texts into vectors, one or millions
      similarity  Compare texts by the angle between their vectors
      tokenize    Show texts as the model sees them: pieces and token ids

    Serve:
      serve       Answer OpenAI's and Jina's clients over HTTP
      config      Show the server's options as they apply

    Host, for many callers:
      accounts    Make, list, limit and close accounts
      keys        Make, list, rotate and revoke keys
      credit      Give an account credit, and see what it has
      usage       Show requests, tokens and their price
      ledger      Verify what was billed, and export it

    Models:
      pull        Download a model from the model hub
      models      List the downloaded models
      pack        Keep a model's packed weights as a file, for a quick start
      calibrate   Fit `fast` to your texts: round its weights for them, keep what suffers in 16 bits
      info        Describe a model: layout, shapes, adapters, memory, licence

    Check:
      verify      Compare a model's numbers with published or golden ones
      bench       Measure speed against what the processor can do
      tune        Measure what smaller vectors cost, on your documents and queries

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Start, with the small built-in model:
      quintet similarity "a stork" "ein Storch" "a bicycle"

    With jina-embeddings-v3:
      quintet pull --accept-license
      quintet embed --task retrieval.query "Where do storks spend the winter?"

    Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 you can fix it, 2 a bug or
    the machine. `quintet <COMMAND> --help` explains one command.
    "#);
}

#[test]
fn every_command_explains_itself_with_examples() {
    for command in [
        "embed",
        "similarity",
        "tokenize",
        "pull",
        "models",
        "info",
        "verify",
        "serve",
        "bench",
    ] {
        let run = run(&[command, "--help"]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        assert!(
            run.stdout.contains("Examples:\n  quintet"),
            "{command}: {}",
            run.stdout
        );
    }
}

#[test]
fn usage_errors_are_the_users_to_fix() {
    assert_snapshot!(run(&["embed", "--dimension", "4", "x"]).shown(), @r#"
    exit 1
    --- stderr
    error: unexpected argument '--dimension' found

      tip: a similar argument exists: '--dimensions'

    Usage: quintet embed --dimensions <N> [TEXT]...

    For more information, try '--help'.
    "#);
    assert_snapshot!(run(&["embed", "--threads", "0", "x"]).shown(), @r#"
    exit 1
    --- stderr
    error: invalid value '0' for '--threads <N>': 0 is not in 1..=1024

    For more information, try '--help'.
    "#);
    assert_snapshot!(run(&["embed", "x", "--input", "y"]).shown(), @r#"
    exit 1
    --- stderr
    error: the argument '[TEXT]...' cannot be used with '--input <FILE>'

    Usage: quintet embed <TEXT>...

    For more information, try '--help'.
    "#);
    assert_eq!(run(&[]).code, Some(1));
}

#[test]
fn a_model_that_is_not_there_comes_with_a_way_to_get_it() {
    assert_snapshot!(run(&["embed", "x", "--model", "nope"]).shown(), @r#"
    exit 1
    --- stderr
    error: there is no model `nope`
    hint: name a directory, a .safetensors or .gguf file, or a hub id such as `jinaai/jina-embeddings-v3`
    "#);
    assert_snapshot!(run(&["embed", "x", "--model", "./nope/model.gguf"]).shown(), @r#"
    exit 1
    --- stderr
    error: there is no model `./nope/model.gguf`
    hint: name a directory, a .safetensors or .gguf file, or a hub id such as `jinaai/jina-embeddings-v3`
    "#);
    assert_snapshot!(run(&["embed", "x", "--model", "org/name@v2"]).shown(), @r#"
    exit 1
    --- stderr
    error: model `org/name@v2` is not in the cache: no folder `no-cache-here/hub/models--org--name`
    hint: fetch it with `quintet pull org/name@v2`
    "#);
    assert_snapshot!(run(&["embed", "x", "--model", "goldens"]).shown(), @r#"
    exit 1
    --- stderr
    error: `goldens` holds no model: expected model.safetensors with config.json, or a base .gguf file
    hint: give a directory with config.json and model.safetensors, a .gguf file, or a model id
    "#);
}

#[test]
fn the_environment_sets_what_no_flag_does() {
    let with = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = quintet();
        command.args(args).envs(variables.iter().copied());
        finish(command, b"")
    };
    let model = ("QUINTET_MODEL", MODEL);
    let vector = run(&["embed", "x", "-m", MODEL]).quiet();
    assert_eq!(
        with(&[model, ("QUINTET_THREADS", "3")], &["embed", "x"]).quiet(),
        vector
    );
    assert_eq!(
        with(&[("QUINTET_MODEL", "nope")], &["embed", "x", "-m", MODEL]).quiet(),
        vector
    );
    with(&[model, ("QUINTET_ISA", "portable")], &["embed", "x"]).quiet();
    let embed = |variable| with(&[model, variable], &["embed", "x"]).shown();
    assert_snapshot!(embed(("QUINTET_THREADS", "none")), @r#"
    exit 1
    --- stderr
    error: QUINTET_THREADS is `none`, expected a number in 1..=1024
    "#);
    assert_snapshot!(embed(("QUINTET_ISA", "mmx")), @r#"
    exit 1
    --- stderr
    error: QUINTET_ISA is `mmx`, expected `portable` or `avx2` or `avx512` or `amx` or `neon`
    "#);
}

#[test]
fn without_a_model_the_built_in_one_runs_and_says_so() {
    let output = run(&["similarity", "a small dog", "ein kleiner Hund"]);
    assert_eq!(output.code, Some(0));
    assert_snapshot!(output.stderr, @"note: no model is named and none is in the cache: running the small built-in `mini`; `quintet pull` fetches jina-embeddings-v3");
    let named = run(&[
        "similarity",
        "--model",
        "mini",
        "a small dog",
        "ein kleiner Hund",
    ]);
    assert_eq!((named.stdout, named.stderr), (output.stdout, String::new()));
}
