//! The architectures that the decoder runs, as data: what each means where its `config.json` is silent.

/// Where a block's norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and MLP (Llama).
    Before,
    /// After them, inside the residual branch (OLMo 2).
    After,
    /// Before and after (Gemma 2 and 3).
    Around,
}

/// Whether queries and keys are normalised before they are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// They are not.
    None,
    /// Each head by itself (Qwen3, Gemma 3).
    PerHead,
    /// All heads together (OLMo 2).
    Whole,
}

/// Which projections are stored as one tensor, their rows one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// None.
    None,
    /// Queries, keys and values as `qkv_proj`, gate and up as `gate_up_proj` (Phi-3).
    Phi3,
    /// Queries, keys and values as `W_pack` (Baichuan).
    Baichuan,
}

/// Which of the attention's projections have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    /// All four, when `attention_bias` says so.
    Declared,
    /// Queries, keys and values, always (Qwen2).
    Qkv,
    /// None, whatever the file says.
    None,
}

/// Which layers look only so far back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    /// None.
    None,
    /// All, when `sliding_window` is given.
    All,
    /// Those behind `max_window_layers`, when `use_sliding_window` says so (Qwen).
    Declared,
    /// Every one but each `n`-th.
    AllBut(usize),
}

/// One architecture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    /// The entry of `architectures`.
    pub architecture: &'static str,
    /// The entry of `model_type`.
    pub model_type: &'static str,
    pub bias: Bias,
    pub qk_norm: QkNorm,
    pub norms: NormPlacement,
    /// Whether norms multiply by `1 + weight`.
    pub norm_offset: bool,
    pub packing: Packing,
    pub windows: Windows,
    /// Context that a window reaches back over when the file gives none, in tokens.
    pub default_window: Option<usize>,
    /// Whether the embedding is multiplied by `√hidden_size`.
    pub scale_embedding: bool,
    /// Whether the scores' scale is `query_pre_attn_scalar^-½`.
    pub own_attention_scale: bool,
    /// Softcaps of scores and logits where the file gives none.
    pub softcaps: Option<(f64, f64)>,
    pub default_activation: &'static str,
    pub default_tied: bool,
    pub default_theta: f64,
    /// Rope base of layers with a window where it is another one.
    pub local_theta: Option<f64>,
    /// Every how many layers one is without rotary embedding; 0: none is.
    pub no_rope_interval: usize,
    pub default_head_dim: Option<usize>,
    pub default_kv_heads: Option<usize>,
    pub default_norm_eps: f64,
    pub default_max_positions: usize,
}

const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    bias: Bias::Declared,
    qk_norm: QkNorm::None,
    norms: NormPlacement::Before,
    norm_offset: false,
    packing: Packing::None,
    windows: Windows::None,
    default_window: None,
    scale_embedding: false,
    own_attention_scale: false,
    softcaps: None,
    default_activation: "silu",
    default_tied: false,
    default_theta: 10_000.0,
    local_theta: None,
    no_rope_interval: 0,
    default_head_dim: None,
    default_kv_heads: None,
    default_norm_eps: 1e-6,
    default_max_positions: 2048,
};

const GEMMA: Family = Family {
    architecture: "GemmaForCausalLM",
    model_type: "gemma",
    norm_offset: true,
    scale_embedding: true,
    default_activation: "gelu_pytorch_tanh",
    default_tied: true,
    default_head_dim: Some(256),
    default_max_positions: 8192,
    ..LLAMA
};

const BAICHUAN: Family = Family {
    architecture: "BaichuanForCausalLM",
    model_type: "baichuan",
    bias: Bias::None,
    packing: Packing::Baichuan,
    default_max_positions: 4096,
    ..LLAMA
};

/// Every architecture.
pub(super) const FAMILIES: [Family; 12] = [
    LLAMA,
    Family {
        architecture: "MistralForCausalLM",
        model_type: "mistral",
        bias: Bias::None,
        windows: Windows::All,
        default_kv_heads: Some(8),
        default_max_positions: 131_072,
        ..LLAMA
    },
    Family {
        architecture: "Qwen2ForCausalLM",
        model_type: "qwen2",
        bias: Bias::Qkv,
        windows: Windows::Declared,
        default_window: Some(4096),
        default_max_positions: 32_768,
        ..LLAMA
    },
    Family {
        architecture: "Qwen3ForCausalLM",
        model_type: "qwen3",
        qk_norm: QkNorm::PerHead,
        windows: Windows::Declared,
        default_window: Some(4096),
        default_head_dim: Some(128),
        default_max_positions: 32_768,
        ..LLAMA
    },
    GEMMA,
    Family {
        architecture: "Gemma2ForCausalLM",
        model_type: "gemma2",
        norms: NormPlacement::Around,
        windows: Windows::AllBut(2),
        default_window: Some(4096),
        own_attention_scale: true,
        softcaps: Some((50.0, 30.0)),
        default_kv_heads: Some(4),
        ..GEMMA
    },
    Family {
        architecture: "Gemma3ForCausalLM",
        model_type: "gemma3_text",
        norms: NormPlacement::Around,
        qk_norm: QkNorm::PerHead,
        windows: Windows::AllBut(6),
        default_window: Some(4096),
        own_attention_scale: true,
        default_kv_heads: Some(4),
        default_theta: 1_000_000.0,
        local_theta: Some(10_000.0),
        default_max_positions: 131_072,
        ..GEMMA
    },
    Family {
        architecture: "Phi3ForCausalLM",
        model_type: "phi3",
        bias: Bias::None,
        packing: Packing::Phi3,
        windows: Windows::All,
        default_norm_eps: 1e-5,
        default_max_positions: 4096,
        ..LLAMA
    },
    Family {
        architecture: "SmolLM3ForCausalLM",
        model_type: "smollm3",
        windows: Windows::Declared,
        default_tied: true,
        default_theta: 2_000_000.0,
        no_rope_interval: 4,
        default_kv_heads: Some(4),
        default_max_positions: 32_768,
        ..LLAMA
    },
    Family {
        architecture: "Olmo2ForCausalLM",
        model_type: "olmo2",
        qk_norm: QkNorm::Whole,
        norms: NormPlacement::After,
        default_norm_eps: 1e-5,
        ..LLAMA
    },
    BAICHUAN,
    // The spelling of the first release.
    Family {
        architecture: "BaiChuanForCausalLM",
        ..BAICHUAN
    },
];

/// The names of all architectures.
pub(super) fn names() -> Vec<&'static str> {
    FAMILIES.iter().map(|family| family.architecture).collect()
}
