"""The letters that generated data sets are made of.

Left out are letters that look like another once size and a small rotation are ignored, within a script and across
all of them (I and l, C and c, the Greek, Cyrillic and Latin A, X and a plus sign, ...). The first letters of a script
are those that are least alike. Every letter is in at least 4 of the fonts.
"""

from rrrnet.errors import UsageError

ALL = "all"
SCRIPTS = {
    "latin": "IUm3LXq7WrdYJZPCMANVKbt2SQeyREDfn9a46THG5gBþøßæ",
    "greek": "ωζΞπλγΓΨτβΩεμςΦαΣηΘσ",
    "cyrillic": "ҐЭЊЪЦѪЛЙЩЫЂЧЮЬЖЋЉДЯШ",
    "armenian": "ՀՂԻՃԸՄԽՆՊԿՔՎՌՖԵԺԶՇԲԹԷԾԳՐՒՁ",
    "georgian": "ოქცრლჯწდბუაკჭჩფსეტგშ",
    "asomtavruli": "ႨႺჁႰჃႪႿჄႩჂႲႮႭႽႠჅႵႣႢႧႬႡႸႯႼႤႥႫႦ",
    "hebrew": "טלקבץאשדערהגצפךמכ",
    "arabic": "بذجترهكطسغفمشيونقثلدعزخ",
    "lao": "ງພຖຈສກມຝຂລຊຕຣຜທນຍ",
    "syllabics": (
        "ᙱᒸᓩᒴᔥᔗᓹᓮᓨᑝᒹᓑᓷᐳᐓᕎᒳᕾᒔᐍᖕᙰᔽᔱᓵᓠᐚᔘᔧᖥᔜᓺᑚᖢᑟᔙᐣᔠᐑᖤᔵᔪᑉᖣᓅᔾᔃᓔᐐᐊᐆᔸᕒᒜᓶᖓᔳᔴᑢᖊᓥᐌᕿᑹᑠᖅᔰᓤᐫᔒᔺᑤ"
        "ᐔᕐᕨᔦᓭᔶᑑᑸᐞᐋᔟᕅᐪᖑᓸᒘᑩᔼᓯᑼᙳᖏᐙᖎᑦᔂᕉᔐᐥᓻᔫᔮᐒᒝᖖᔯᔭᑙᐘᕍᒕᖂᐡᒁᓡᕻᔨᐢᑻᒒᒀᕵᑵᔹᔷᕌᒰᑡᓈᐎᖃᖌᐕᖦᑘᐏᔻᓐᒱᒢᐗᙯᔚ"
    ),
    "symbols": (
        "♩✁☄⚚✩☇⚪♨☟⚸♫♡☍☾♮☽⚥⚔⚳✍☉♉⚐☈☡☞♑☝☜☩♬♄♂☢☕♌%☖☰♔✉♪✂&♘☆✆♐♒⚶⚖⚗⚆☀@♤✧♈♊♃☛⚞✌⚟♾✲♎☿⚡♓♳♙☒⚒⚘♇♢$☹⚓☊✎☘✇☚♿⚤☠♍⛁✈"
    ),
}
LETTERS = sum(map(len, SCRIPTS.values()))


def pick_letters(scripts: tuple[str, ...], count: int) -> list[tuple[str, str]]:
    """The first `count` (letter, script) pairs, in turn from each script, so that all are equally present.

    Args:
        scripts: keys of `SCRIPTS`, or "all".
        count: how many classes.

    Raises:
        UsageError: a script is unknown, or the scripts have fewer than `count` letters.
    """
    unknown = [script for script in scripts if script != ALL and script not in SCRIPTS]
    if unknown or not scripts:
        found = ", ".join(unknown) or "empty"
        raise UsageError(f"--script is {found}: allowed are {', '.join(SCRIPTS)}, or {ALL} for every one of them")
    chosen = tuple(SCRIPTS) if ALL in scripts else tuple(dict.fromkeys(scripts))
    available = sum(len(SCRIPTS[script]) for script in chosen)
    if count > available:
        raise UsageError(
            f"--classes is {count}, but --script {' '.join(chosen)} offers {available} distinct letters: "
            f"ask for fewer, add scripts, or use --script {ALL} for up to {LETTERS}"
        )
    longest = max(len(SCRIPTS[script]) for script in chosen)
    in_turn = [
        (SCRIPTS[script][rank], script) for rank in range(longest) for script in chosen if rank < len(SCRIPTS[script])
    ]
    return in_turn[:count]
