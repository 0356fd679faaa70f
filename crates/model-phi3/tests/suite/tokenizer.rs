use crate::support::TestFile;
use gguf_format::Gguf;
use gguf_format::write::WriteValue;
use model_phi3::{Error, ErrorClass, TokenType, Tokenizer};

const TEMPLATE: &str =
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>{% endfor %}";

/// Calls `f` with the tokenizer of the file.
fn with<R>(file: &TestFile, f: impl FnOnce(Result<Tokenizer<'_>, Error>) -> R) -> R {
    file.with_parsed(|gguf| f(Tokenizer::from_metadata(gguf.metadata())))
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Returns the tiny preset with a tokenizer of four tokens. Every key has a value of its own.
fn with_tokenizer() -> TestFile {
    let mut file = TestFile::tiny();
    file.set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.pre", "default")
        .set("tokenizer.ggml.tokens", strings(&["<unk>", "<s>", "▁the", "<0x0A>"]))
        .set("tokenizer.ggml.scores", vec![0.0_f32, -1.5, -2.0, f32::NEG_INFINITY])
        .set("tokenizer.ggml.token_type", vec![2_i32, 3, 1, 6])
        .set("tokenizer.ggml.merges", strings(&["t h", "th e"]))
        .set("tokenizer.ggml.bos_token_id", 1_u32)
        .set("tokenizer.ggml.eos_token_id", 32_000_u32)
        .set("tokenizer.ggml.eot_token_id", 32_007_u32)
        .set("tokenizer.ggml.unknown_token_id", 0_u32)
        .set("tokenizer.ggml.padding_token_id", 2_u32)
        .set("tokenizer.ggml.add_bos_token", true)
        .set("tokenizer.ggml.add_eos_token", false)
        .set("tokenizer.ggml.add_space_prefix", true)
        .set("tokenizer.chat_template", TEMPLATE);
    file
}

#[test]
fn every_key_is_read() {
    with(&with_tokenizer(), |tokenizer| {
        let tokenizer = tokenizer.unwrap();
        assert_eq!((tokenizer.model, tokenizer.pre), (Some("llama"), Some("default")));
        assert_eq!((tokenizer.bos_id, tokenizer.eos_id), (Some(1), Some(32_000)));
        assert_eq!((tokenizer.eot_id, tokenizer.unknown_id), (Some(32_007), Some(0)));
        assert_eq!(tokenizer.padding_id, Some(2));
        assert_eq!((tokenizer.add_bos, tokenizer.add_eos), (Some(true), Some(false)));
        assert_eq!(tokenizer.add_space_prefix, Some(true));
        assert_eq!(tokenizer.chat_template, Some(TEMPLATE));

        let tokens: Vec<&str> = tokenizer.tokens().unwrap().map(Result::unwrap).collect();
        assert_eq!(tokens, ["<unk>", "<s>", "▁the", "<0x0A>"]);
        let bytes = tokenizer.token_bytes().unwrap();
        assert!(bytes.eq(tokens.iter().map(|token| token.as_bytes())));
        let scores: Vec<f32> = tokenizer.scores().unwrap().collect();
        assert_eq!(scores, [0.0, -1.5, -2.0, f32::NEG_INFINITY]);
        let merges: Vec<&str> = tokenizer.merges().unwrap().map(Result::unwrap).collect();
        assert_eq!(merges, ["t h", "th e"]);
        let types: Vec<TokenType> = tokenizer.token_types().unwrap().collect();
        assert_eq!(
            types,
            [TokenType::Unknown, TokenType::Control, TokenType::Normal, TokenType::Byte]
        );
    });
}

#[test]
fn each_call_starts_at_the_first_element() {
    with(&with_tokenizer(), |tokenizer| {
        let tokenizer = tokenizer.unwrap();
        for _ in 0..2 {
            assert_eq!(tokenizer.tokens().unwrap().count(), 4);
            assert_eq!(tokenizer.token_bytes().unwrap().count(), 4);
            assert_eq!(tokenizer.scores().unwrap().count(), 4);
            assert_eq!(tokenizer.merges().unwrap().count(), 2);
            let mut types = tokenizer.token_types().unwrap();
            assert_eq!((types.len(), types.nth(2)), (4, Some(TokenType::Normal)));
            assert_eq!((types.len(), types.next()), (1, Some(TokenType::Byte)));
            assert_eq!((types.len(), types.next()), (0, None));
        }
    });
}

/// The header is the only copy: a worker can keep the strings as long as the file.
#[test]
fn texts_are_those_of_the_header() {
    let bytes = with_tokenizer().writer().to_bytes(|_, _| ()).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    let (template, token) = {
        let tokenizer = Tokenizer::from_metadata(gguf.metadata()).unwrap();
        (tokenizer.chat_template.unwrap(), tokenizer.tokens().unwrap().nth(2).unwrap().unwrap())
    };
    assert_eq!((template, token), (TEMPLATE, "▁the"));
    for text in [template, token] {
        assert!(bytes.as_ptr_range().contains(&text.as_ptr()));
    }
}

#[test]
fn no_key_is_required() {
    let mut file = TestFile::tiny();
    file.unset("tokenizer.ggml.model");
    with(&file, |tokenizer| {
        let tokenizer = tokenizer.unwrap();
        assert_eq!((tokenizer.model, tokenizer.pre), (None, None));
        assert_eq!((tokenizer.bos_id, tokenizer.eos_id), (None, None));
        assert_eq!(
            (tokenizer.eot_id, tokenizer.unknown_id, tokenizer.padding_id),
            (None, None, None)
        );
        assert_eq!((tokenizer.add_bos, tokenizer.add_eos), (None, None));
        assert_eq!((tokenizer.add_space_prefix, tokenizer.chat_template), (None, None));
        assert!(tokenizer.tokens().is_none() && tokenizer.token_bytes().is_none());
        assert!(tokenizer.scores().is_none() && tokenizer.token_types().is_none());
        assert!(tokenizer.merges().is_none());
    });
}

#[test]
fn wrong_types_are_errors_that_name_the_key() {
    let text = || WriteValue::from("1");
    let numbers = || WriteValue::from(vec![1_u64]);
    for (key, value) in [
        ("model", 1_u32.into()),
        ("pre", vec!["default".to_owned()].into()),
        ("tokens", numbers()),
        ("tokens", text()),
        ("scores", vec![1.0_f64].into()),
        ("token_type", numbers()),
        ("token_type", vec![1.0_f32].into()),
        ("merges", numbers()),
        ("bos_token_id", text()),
        ("eos_token_id", 1.0_f32.into()),
        ("eos_token_id", (-1_i32).into()),
        ("eot_token_id", (1_u64 << 32).into()),
        ("unknown_token_id", text()),
        ("padding_token_id", true.into()),
        ("add_bos_token", 1_u32.into()),
        ("add_eos_token", 1_u8.into()),
        ("add_space_prefix", text()),
    ] {
        let key = format!("tokenizer.ggml.{key}");
        assert_refused(with_tokenizer().set(&key, value), &key);
    }
    let key = "tokenizer.chat_template";
    assert_refused(with_tokenizer().set(key, strings(&["a", "b"])), key);
}

#[track_caller]
fn assert_refused(file: &TestFile, key: &str) {
    let error = with(file, |tokenizer| tokenizer.map(|_| ()).unwrap_err());
    assert_eq!(error.class(), ErrorClass::Malformed, "{error}");
    assert!(error.to_string().contains(key), "{key}: {error}");
}

#[test]
fn every_token_has_one_score_and_one_type() {
    for len in [0, 3, 5] {
        let scores = "tokenizer.ggml.scores";
        assert_refused(with_tokenizer().set(scores, vec![0.0_f32; len]), scores);
        let types = "tokenizer.ggml.token_type";
        assert_refused(with_tokenizer().set(types, vec![1_u32; len]), types);
        let error = with(with_tokenizer().set(types, vec![1_i32; len]), |t| t.unwrap_err());
        assert_eq!(
            error.to_string(),
            format!("the key {types} is an array of {len} values, but there are 4 tokens")
        );
    }
    let mut file = with_tokenizer();
    file.unset("tokenizer.ggml.tokens").set("tokenizer.ggml.scores", vec![0.0_f32; 9]);
    with(&file, |tokenizer| assert_eq!(tokenizer.unwrap().scores().unwrap().len(), 9));
}

#[test]
fn signed_and_unsigned_types_mean_the_same() {
    let all = [0_u32, 1, 2, 3, 4, 5, 6, 7];
    let tokens = strings(&["a", "b", "c", "d", "e", "f", "g", "h"]);
    let expected = [
        TokenType::Other(0),
        TokenType::Normal,
        TokenType::Unknown,
        TokenType::Control,
        TokenType::UserDefined,
        TokenType::Unused,
        TokenType::Byte,
        TokenType::Other(7),
    ];
    let key = "tokenizer.ggml.token_type";
    let mut file = with_tokenizer();
    file.set("tokenizer.ggml.tokens", tokens).unset("tokenizer.ggml.scores");
    let signed = all.map(|number| i32::try_from(number).unwrap()).to_vec();
    for types in [WriteValue::from(all.to_vec()), signed.into()] {
        with(file.set(key, types), |tokenizer| {
            assert!(tokenizer.unwrap().token_types().unwrap().eq(expected));
        });
    }
    let extremes = |values: WriteValue| {
        let mut file = TestFile::tiny();
        with(file.set(key, values), |t| t.unwrap().token_types().unwrap().collect::<Vec<_>>())
    };
    assert_eq!(extremes(vec![-1_i32].into()), [TokenType::Other(-1)]);
    assert_eq!(extremes(vec![u32::MAX].into()), [TokenType::Other(u32::MAX.into())]);
}

#[test]
fn a_token_that_is_not_utf8_spoils_no_other() {
    let mut file = with_tokenizer();
    let mut bytes = file.writer().to_bytes(|_, _| ()).unwrap();
    let at = bytes.windows(5).position(|five| five == b"<unk>").unwrap();
    bytes[at + 1] = 0xff;
    let gguf = Gguf::parse(&bytes).unwrap();
    let tokenizer = Tokenizer::from_metadata(gguf.metadata()).unwrap();
    let tokens: Vec<_> = tokenizer.tokens().unwrap().collect();
    assert!(tokens[0].is_err());
    assert_eq!(tokens[1].as_ref().unwrap(), &"<s>");
    assert_eq!(tokenizer.token_bytes().unwrap().next().unwrap(), b"<\xffnk>");

    // A template is read as a whole.
    let mut bytes =
        file.set("tokenizer.chat_template", "x?y").writer().to_bytes(|_, _| ()).unwrap();
    let at = bytes.windows(3).position(|three| three == b"x?y").unwrap();
    bytes[at + 1] = 0xff;
    let gguf = Gguf::parse(&bytes).unwrap();
    let error = Tokenizer::from_metadata(gguf.metadata()).unwrap_err();
    assert_eq!(error.code(), "GGUF_INVALID_UTF8");
    assert!(error.to_string().contains("tokenizer.chat_template"), "{error}");
}
