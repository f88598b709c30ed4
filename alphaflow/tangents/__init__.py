"""Rules that carry a derivative through a network, beside its values: `Dual`, and a function for each layer."""

from .attention_rule import attention as attention
from .attention_rule import cross_attention as cross_attention
from .rules import Dual as Dual
from .rules import Value as Value
from .rules import add as add
from .rules import cat as cat
from .rules import chunk as chunk
from .rules import gated as gated
from .rules import gelu as gelu
from .rules import layer_norm as layer_norm
from .rules import linear as linear
from .rules import linearly as linearly
from .rules import modulate as modulate
from .rules import primal as primal
from .rules import product as product
from .rules import rms_norm as rms_norm
from .rules import scaled as scaled
from .rules import silu as silu
from .rules import through as through
from .rules import waves as waves
