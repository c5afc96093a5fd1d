"""Unicode to LaTeX, for what MathML writes as characters: Greek, operators, relations, arrows, accents, styled letters."""

from __future__ import annotations

import unicodedata

__all__ = ["ACCENTS", "FUNCTIONS", "SYMBOLS"]

_GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "varepsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "varsigma",
    "sigma",
    "tau",
    "upsilon",
    "varphi",
    "chi",
    "psi",
    "omega",
]
_CAPITALS = {
    "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Υ": "Upsilon", "Φ": "Phi",
    "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_LATIN_CAPITALS = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧ", "ABEZHIKMNOPTX", strict=True))

_COMMANDS = """
ϕ phi|ϵ epsilon|ϑ vartheta|ϖ varpi|ϱ varrho|ϰ varkappa|∂ partial|∇ nabla|∞ infty|ℏ hbar|ℓ ell|ℜ Re|ℑ Im|℘ wp|ℵ aleph|ı imath
ȷ jmath|∅ emptyset|∀ forall|∃ exists|∄ nexists|¬ neg|∧ wedge|∨ vee|∩ cap|∪ cup|∫ int|∬ iint|∭ iiint|∮ oint|∑ sum|∏ prod
∐ coprod|⋂ bigcap|⋃ bigcup|⋀ bigwedge|⋁ bigvee|⨁ bigoplus|⨂ bigotimes|⨀ bigodot|√ surd|± pm|∓ mp|× times|÷ div|⋅ cdot|· cdot
∗ ast|⋆ star|∘ circ|∙ bullet|• bullet|⊕ oplus|⊖ ominus|⊗ otimes|⊘ oslash|⊙ odot|† dagger|‡ ddagger|⋄ diamond|∖ setminus|≀ wr
⊎ uplus|⊓ sqcap|⊔ sqcup|≤ leq|≥ geq|⩽ leqslant|⩾ geqslant|≠ neq|≡ equiv|∼ sim|≃ simeq|≈ approx|≅ cong|≍ asymp|≐ doteq
∝ propto|≪ ll|≫ gg|≺ prec|≻ succ|⪯ preceq|⪰ succeq|⊂ subset|⊃ supset|⊆ subseteq|⊇ supseteq|⊊ subsetneq|⊋ supsetneq
⊏ sqsubset|⊑ sqsubseteq|∈ in|∉ notin|∋ ni|⊢ vdash|⊣ dashv|⊨ models|⊤ top|⊥ perp|∣ mid|∤ nmid|∥ parallel|∦ nparallel|≮ nless
≯ ngtr|≰ nleq|≱ ngeq|≲ lesssim|≳ gtrsim|≜ triangleq|≔ coloneqq|⋈ bowtie|← leftarrow|→ rightarrow|↔ leftrightarrow
⇐ Leftarrow|⇒ Rightarrow|⇔ Leftrightarrow|↑ uparrow|↓ downarrow|↕ updownarrow|⇑ Uparrow|⇓ Downarrow|↦ mapsto|⟵ longleftarrow
⟶ longrightarrow|⟷ longleftrightarrow|⟸ Longleftarrow|⟹ Longrightarrow|⟺ Longleftrightarrow|⟼ longmapsto|↪ hookrightarrow
↩ hookleftarrow|⇀ rightharpoonup|⇌ rightleftharpoons|↗ nearrow|↘ searrow|↙ swarrow|↖ nwarrow|⇝ rightsquigarrow
↠ twoheadrightarrow|↾ upharpoonright|… ldots|⋯ cdots|⋮ vdots|⋱ ddots|⟨ langle|⟩ rangle|〈 langle|〉 rangle|⌈ lceil|⌉ rceil
⌊ lfloor|⌋ rfloor|‖ Vert|∠ angle|△ triangle|□ square|◻ square|■ blacksquare|♯ sharp|♭ flat|♮ natural|♠ spadesuit|♣ clubsuit
♥ heartsuit|♦ diamondsuit|′ prime|∴ therefore|∵ because|⊳ triangleright|⊲ triangleleft|▹ triangleright|◃ triangleleft
⋉ ltimes|⋊ rtimes|⊞ boxplus|⊠ boxtimes|⊡ boxdot|⟦ llbracket|⟧ rrbracket|⊩ Vdash|⊬ nvdash|⊭ nvDash|≼ preccurlyeq
≽ succcurlyeq|∔ dotplus|⌢ frown|⌣ smile|℧ mho|ð eth|§ S|¶ P|£ pounds
"""

# Characters that are nothing in LaTeX, or plain ASCII.
_PLAIN = {
    0x2061: "", 0x2062: "", 0x2063: "", 0x2064: "", 0x200B: "", 0x200C: "", 0x200D: "", 0xFEFF: "", 0x2060: "",
    0x00A0: " ", 0x2002: " ", 0x2003: "\\quad ", 0x2004: " ", 0x2005: "\\;", 0x2006: "\\,", 0x2009: "\\,",
    0x200A: "\\,", 0x202F: "\\,", 0x205F: "\\:", 0x2212: "-", 0x2010: "-", 0x2011: "-", 0x2013: "-", 0x2014: "-",
    0x2215: "/", 0x2044: "/", 0x2223: "|", 0x2236: ":", 0x2254: ":=", 0x02B9: "'", 0x2033: "''", 0x2034: "'''",
    0x2016: "\\|", 0x2225: "\\parallel ", 0x29F8: "/", 0x2145: "D", 0x2146: "d", 0x2147: "e", 0x2148: "i",
    0xFE35: "\\overparen ", 0x1D6A4: "\\imath ", 0x1D6A5: "\\jmath ",
}  # fmt: skip

# What a <mover> or <munder> puts over or under its base: character -> (command over, command under).
ACCENTS = {
    "^": ("hat", ""), "ˆ": ("hat", ""), "\u0302": ("hat", ""), "~": ("tilde", ""), "˜": ("tilde", ""),
    "\u0303": ("tilde", ""), "¯": ("bar", "underline"), "‾": ("overline", "underline"), "_": ("overline", "underline"),
    "ˉ": ("bar", "underline"), "\u0304": ("bar", ""), "\u0305": ("overline", ""), "\u0332": ("", "underline"),
    "―": ("overline", "underline"), "˙": ("dot", ""), "\u0307": ("dot", ""), "¨": ("ddot", ""), "\u0308": ("ddot", ""),
    "ˇ": ("check", ""), "\u030c": ("check", ""), "˘": ("breve", ""), "\u0306": ("breve", ""), "´": ("acute", ""),
    "`": ("grave", ""), "→": ("vec", ""), "⃗": ("vec", ""), "⏞": ("overbrace", ""), "⏟": ("", "underbrace"),
    "︷": ("overbrace", ""), "︸": ("", "underbrace"), "˚": ("mathring", ""), "⇀": ("vec", ""),
    "←": ("overleftarrow", ""),
}  # fmt: skip

FUNCTIONS = [
    "arccos",
    "arcsin",
    "arctan",
    "arg",
    "cos",
    "cosh",
    "cot",
    "coth",
    "csc",
    "deg",
    "det",
    "dim",
    "exp",
    "gcd",
    "hom",
    "inf",
    "ker",
    "lg",
    "lim",
    "liminf",
    "limsup",
    "ln",
    "log",
    "max",
    "min",
    "Pr",
    "sec",
    "sin",
    "sinh",
    "sup",
    "tan",
    "tanh",
]

_STYLES = {
    "BOLD": "mathbf", "DOUBLE-STRUCK": "mathbb", "SCRIPT": "mathcal", "FRAKTUR": "mathfrak", "SANS-SERIF": "mathsf",
    "MONOSPACE": "mathtt", "BLACK-LETTER": "mathfrak", "BOLD SCRIPT": "mathcal", "BOLD FRAKTUR": "mathfrak", "ITALIC": "",
    "BOLD ITALIC": "mathbf", "SANS-SERIF BOLD": "mathsf", "SANS-SERIF ITALIC": "mathsf", "SANS-SERIF BOLD ITALIC": "mathsf",
}  # fmt: skip


def _symbols() -> dict[int, str]:
    """Code point -> LaTeX; a command ends in a space, so that a letter may follow."""
    out = {ord(c): latin for c, latin in _LATIN_CAPITALS.items()}
    out |= {ord(c): f"\\{name} " for c, name in _CAPITALS.items()}
    out |= {0x3B1 + i: f"\\{name} " for i, name in enumerate(_GREEK)}
    out[ord("ο")] = "o"
    for entry in _COMMANDS.replace("\n", "|").split("|"):
        if entry:
            out[ord(entry[0])] = f"\\{entry[2:]} "
    out |= _PLAIN
    for code in [*range(0x1D400, 0x1D800), *range(0x2100, 0x2140)]:
        plain = unicodedata.normalize("NFKC", chr(code))
        name = unicodedata.name(chr(code), "").removeprefix("MATHEMATICAL ")
        style = next((s for s in sorted(_STYLES, key=len, reverse=True) if name.startswith(s + " ")), None)
        if code in out or style is None or len(plain) != 1 or (code < 0x2140 and not plain.isascii()):
            continue
        base = out.get(ord(plain), plain).strip()
        out[code] = f"\\{_STYLES[style]}{{{base}}}" if _STYLES[style] else f"{base} " if base.startswith("\\") else base
    return out


SYMBOLS = _symbols()
