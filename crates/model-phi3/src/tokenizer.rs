//! The tokenizer of a model, as the file describes it.

use std::iter::FusedIterator;

use gguf_format::{ByteStrings, Elements, Metadata, Strings};

use crate::error::Error;
use crate::keys::{
    ADD_BOS, ADD_EOS, ADD_SPACE_PREFIX, BOS_ID, CHAT_TEMPLATE, EOS_ID, EOT_ID, PADDING_ID,
    TOKEN_MERGES, TOKEN_SCORES, TOKEN_TYPE, TOKENIZER_MODEL, TOKENIZER_PRE, TOKENS, UNKNOWN_ID,
};

/// The tokenizer's keys of a file, borrowed from its header.
///
/// A program that runs the model needs them beside the weights: the tokens, the token that ends a text, and the
/// chat template. No key is required. A value is `None` if the file does not have its key.
///
/// The GGUF specification defines most of these keys. `pre`, `eot_token_id` and the three `add_` keys are
/// llama.cpp's.
///
/// The arrays are methods. They are decoded when they are read, and each call starts at the first element.
///
/// ```
/// use model_phi3::gguf_format::Metadata;
/// use model_phi3::{Error, Tokenizer};
///
/// /// Returns the text of the token that ends an answer.
/// fn end_of_text<'a>(metadata: &Metadata<'a>) -> Result<Option<&'a str>, Error> {
///     let tokenizer = Tokenizer::from_metadata(metadata)?;
///     let (Some(mut tokens), Some(eos)) = (tokenizer.tokens(), tokenizer.eos_id) else {
///         return Ok(None);
///     };
///     Ok(tokens.nth(eos as usize).transpose()?)
/// }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Tokenizer<'a> {
    /// `tokenizer.ggml.model`: `llama` for SentencePiece, `gpt2` for BPE, `none` if the file has no tokenizer.
    pub model: Option<&'a str>,
    /// `tokenizer.ggml.pre`: the way in which BPE splits a text into words.
    pub pre: Option<&'a str>,
    /// `tokenizer.ggml.bos_token_id`: the token that starts a text.
    pub bos_id: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`: the token that ends a text.
    pub eos_id: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: the token that ends a turn of a chat.
    pub eot_id: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`: the token for text that no other token covers.
    pub unknown_id: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`: the token that fills up short sequences of a batch.
    pub padding_id: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`: whether each text starts with [`bos_id`](Self::bos_id).
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`: whether each text ends with [`eos_id`](Self::eos_id).
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`: whether SentencePiece puts a space before each text.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`: the Jinja template that makes one text of a chat's messages.
    pub chat_template: Option<&'a str>,
    tokens: Option<Tokens<'a>>,
    scores: Option<Elements<'a, f32>>,
    token_types: Option<TokenTypes<'a>>,
    merges: Option<Strings<'a>>,
}

/// The same array, as text and as bytes.
#[derive(Debug, Clone)]
struct Tokens<'a> {
    text: Strings<'a>,
    bytes: ByteStrings<'a>,
}

impl<'a> Tokenizer<'a> {
    /// Reads the tokenizer's keys.
    ///
    /// The token ids are those of the file. They are not compared with the number of tokens, because some
    /// files have the id of a token that does not exist.
    ///
    /// # Errors
    ///
    /// * [`Error::Metadata`] if a key has the wrong type or is an integer out of range, or if a text is not UTF-8.
    ///   Tokens and merges are checked when they are read.
    /// * [`Error::InvalidValue`] if the numbers of tokens, scores and token types differ.
    pub fn from_metadata(metadata: &Metadata<'a>) -> Result<Self, Error> {
        let text = metadata.optional::<Strings<'_>>(TOKENS)?;
        let bytes = metadata.optional::<ByteStrings<'_>>(TOKENS)?;
        let tokenizer = Self {
            model: metadata.optional(TOKENIZER_MODEL)?,
            pre: metadata.optional(TOKENIZER_PRE)?,
            bos_id: metadata.optional(BOS_ID)?,
            eos_id: metadata.optional(EOS_ID)?,
            eot_id: metadata.optional(EOT_ID)?,
            unknown_id: metadata.optional(UNKNOWN_ID)?,
            padding_id: metadata.optional(PADDING_ID)?,
            add_bos: metadata.optional(ADD_BOS)?,
            add_eos: metadata.optional(ADD_EOS)?,
            add_space_prefix: metadata.optional(ADD_SPACE_PREFIX)?,
            chat_template: metadata.optional(CHAT_TEMPLATE)?,
            tokens: text.zip(bytes).map(|(text, bytes)| Tokens { text, bytes }),
            scores: metadata.optional(TOKEN_SCORES)?,
            token_types: TokenTypes::from_metadata(metadata)?,
            merges: metadata.optional(TOKEN_MERGES)?,
        };
        tokenizer.check_lengths()?;
        Ok(tokenizer)
    }

    /// Returns the tokens, `tokenizer.ggml.tokens`. The id of a token is its position, from 0.
    ///
    /// A token that is not UTF-8 is an error of its own. The iterator continues after it.
    #[must_use]
    pub fn tokens(&self) -> Option<Strings<'a>> {
        Some(self.tokens.as_ref()?.text.clone())
    }

    /// Returns the tokens as bytes, which need not be UTF-8.
    #[must_use]
    pub fn token_bytes(&self) -> Option<ByteStrings<'a>> {
        Some(self.tokens.as_ref()?.bytes.clone())
    }

    /// Returns the score of each token, `tokenizer.ggml.scores`. SentencePiece merges the pair with the highest
    /// score first.
    #[must_use]
    pub fn scores(&self) -> Option<Elements<'a, f32>> {
        self.scores.clone()
    }

    /// Returns the type of each token, `tokenizer.ggml.token_type`.
    #[must_use]
    pub fn token_types(&self) -> Option<TokenTypes<'a>> {
        self.token_types.clone()
    }

    /// Returns the merges of BPE in order, `tokenizer.ggml.merges`: two parts with a space between them.
    #[must_use]
    pub fn merges(&self) -> Option<Strings<'a>> {
        self.merges.clone()
    }

    /// Fails if an array has another length than the tokens. The GGUF specification requires the same length.
    fn check_lengths(&self) -> Result<(), Error> {
        let Some(tokens) = self.tokens.as_ref().map(|tokens| tokens.bytes.len()) else {
            return Ok(());
        };
        let scores = self.scores.as_ref().map(ExactSizeIterator::len);
        let types = self.token_types.as_ref().map(ExactSizeIterator::len);
        for (key, len) in [(TOKEN_SCORES, scores), (TOKEN_TYPE, types)] {
            if let Some(len) = len.filter(|&len| len != tokens) {
                return Err(Error::InvalidValue {
                    key: key.to_owned(),
                    value: format!("an array of {len} values"),
                    reason: format!("there are {tokens} tokens"),
                });
            }
        }
        Ok(())
    }
}

/// The type of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenType {
    /// 1: text.
    Normal,
    /// 2: the token for text that no other token covers.
    Unknown,
    /// 3: not text, such as the start of a text or the end of a turn. Usually it is not printed.
    Control,
    /// 4: text that was added to the vocabulary. It is never split.
    UserDefined,
    /// 5: not used.
    Unused,
    /// 6: a single byte, written as `<0x0A>`.
    Byte,
    /// A number that the GGUF specification does not define.
    Other(i64),
}

impl From<i64> for TokenType {
    fn from(number: i64) -> Self {
        match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            other => Self::Other(other),
        }
    }
}

/// Iterator over the types of tokens, see [`Tokenizer::token_types`].
#[derive(Debug, Clone)]
pub struct TokenTypes<'a>(Numbers<'a>);

/// llama.cpp writes signed integers. Other writers use unsigned integers.
#[derive(Debug, Clone)]
enum Numbers<'a> {
    Signed(Elements<'a, i32>),
    Unsigned(Elements<'a, u32>),
}

impl<'a> TokenTypes<'a> {
    pub(crate) fn from_metadata(metadata: &Metadata<'a>) -> Result<Option<Self>, Error> {
        if let Ok(unsigned) = metadata.optional(TOKEN_TYPE) {
            return Ok(unsigned.map(|numbers| Self(Numbers::Unsigned(numbers))));
        }
        let signed = metadata.optional(TOKEN_TYPE)?;
        Ok(signed.map(|numbers| Self(Numbers::Signed(numbers))))
    }
}

impl Iterator for TokenTypes<'_> {
    type Item = TokenType;

    fn next(&mut self) -> Option<TokenType> {
        self.nth(0)
    }

    fn nth(&mut self, n: usize) -> Option<TokenType> {
        let number = match &mut self.0 {
            Numbers::Signed(numbers) => i64::from(numbers.nth(n)?),
            Numbers::Unsigned(numbers) => i64::from(numbers.nth(n)?),
        };
        Some(number.into())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            Numbers::Signed(numbers) => numbers.size_hint(),
            Numbers::Unsigned(numbers) => numbers.size_hint(),
        }
    }
}

impl ExactSizeIterator for TokenTypes<'_> {}
impl FusedIterator for TokenTypes<'_> {}
