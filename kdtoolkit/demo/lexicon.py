"""The words of the demo suite: plain English, grouped by what they mean.

A line of synonyms is one concept; all its words may stand for it. Everything else (antonyms, categories) is a relation
between concepts. The lists are long on purpose: a few hundred labelled rows meet only a part of the words, which is
what gives the teacher, and text without labels, something to teach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import TypeVar

Item = TypeVar("Item")
SKEW = 3.0
"""How uneven the words are: the first eighth of a list makes half of what is picked from it."""


def pick(rng: Random, items: Sequence[Item]) -> Item:
    """One of `items`, early ones more often: like words of a language, a few are common and many are rare."""
    return items[int(len(items) * rng.random() ** SKEW)]


@dataclass(frozen=True, slots=True, eq=False)
class Concept:
    """One meaning. forms: its synonyms; a verb's are (base, past, participle) triples, all others single words."""

    name: str
    category: str
    forms: tuple[str, ...] = ()
    verbs: tuple[tuple[str, str, str], ...] = ()


def _words(line: str) -> tuple[str, ...]:
    return tuple(line.split())


def _concepts(category: str, lines: str) -> tuple[Concept, ...]:
    return tuple(Concept(words[0], category, tuple(words)) for words in map(str.split, lines.strip().splitlines()))


def _in_turn(*groups: tuple[Concept, ...]) -> tuple[Concept, ...]:
    """The first of each group, then the second of each, so that `pick` prefers no group."""
    return tuple(concept for row in zip_longest(*groups) for concept in row if concept is not None)


def _verb(word: str) -> tuple[str, str, str]:
    """Base, past and participle of "clean"; irregular ones are written out: "hide/hid/hidden", "buy/bought"."""
    if "/" in word:
        base, past, *rest = word.split("/")
        return base, past, rest[0] if rest else past
    if word.endswith("e"):
        return word, word + "d", word + "d"
    if word.endswith("y") and word[-2] not in "aeou":
        return word, word[:-1] + "ied", word[:-1] + "ied"
    return word, word + "ed", word + "ed"


def _verbs(category: str, lines: str) -> tuple[Concept, ...]:
    rows = [tuple(_verb(word) for word in line.split()) for line in lines.strip().splitlines()]
    return tuple(Concept(verbs[0][0], category, verbs=verbs) for verbs in rows)


# People and things: a concept's category is what it is a kind of, a word that is true of every member.
PEOPLE = _in_turn(
    _concepts("medic", "doctor physician\nnurse caregiver\nsurgeon\nmidwife\ndentist"),
    _concepts("artist", "painter\nsinger vocalist\nactor performer\npoet versifier\ndancer\nsculptor carver"),
    _concepts("relative", "cousin\nuncle\naunt auntie\ngrandmother grandma\nnephew\nbrother sibling"),
    _concepts("worker", "carpenter woodworker\nbuilder\nplumber\ncleaner janitor\nmechanic repairman\nporter bellboy"),
    _concepts("official", "mayor\nsenator lawmaker\njudge magistrate\ninspector examiner\nambassador envoy"),
    _concepts("youth", "boy lad\ngirl lass\nstudent pupil\ntoddler infant\nteenager adolescent"),
)

THINGS = _in_turn(
    _concepts("vehicle", "car automobile\nbicycle bike\ntruck lorry\nboat vessel\nmotorcycle motorbike\nwagon cart"),
    _concepts("garment", "coat overcoat\nhat cap\nshirt blouse\nsweater pullover\nscarf shawl\nboot"),
    _concepts("furnishing", "sofa couch\nrug carpet\nlamp lantern\nmirror\ncupboard cabinet\nstool"),
    _concepts("container", "box crate\nbag sack\nbottle flask\nbasket hamper\njar pot\nsuitcase trunk"),
    _concepts("tool", "hammer mallet\nknife blade\nsaw\nladder\nspade shovel\nwrench spanner"),
    _concepts("jewel", "ring\nnecklace pendant\nbracelet bangle\ndiamond gem\ncrown tiara"),
    _concepts("document", "letter note\nmap chart\ncontract agreement\ndiary journal\ninvoice bill\nticket pass"),
    _concepts("instrument", "violin fiddle\npiano\nflute pipe\ndrum\ntrumpet horn\nguitar"),
)

# Verbs come in opposites: the two of a pair cannot both be true of one event.
OPPOSITE_VERBS = tuple(
    zip(
        _verbs(
            "deed",
            """
            buy/bought purchase acquire
            find/found discover locate
            repair mend fix
            hide/hid/hidden conceal
            praise admire applaud
            accept receive
            keep/kept retain
            clean wash rinse
            remember recall
            raise lift hoist
            open unlock
            fill load
            bring/brought deliver
            lend/lent loan
            """,
        ),
        _verbs(
            "deed",
            """
            sell/sold auction
            lose/lost misplace
            break/broke/broken damage smash
            show/showed/shown display exhibit
            criticise fault mock
            refuse reject decline
            discard dump
            stain soil smear
            forget/forgot/forgotten overlook
            drop/dropped lower
            close shut/shut/shut
            empty drain
            remove withdraw/withdrew/withdrawn
            borrow rent
            """,
        ),
    )
)
OTHER_VERBS = _verbs(
    "deed",
    """
    paint
    describe portray
    photograph film
    weigh
    inspect examine
    wrap/wrapped
    draw/drew/drawn sketch
    count tally
    measure gauge
    choose/chose/chosen select pick
    touch
    need require
    """,
)
VERBS = (*(verb for pair in OPPOSITE_VERBS for verb in pair), *OTHER_VERBS)
SOCIAL_VERBS = _verbs(
    "meeting",
    """
    thank
    follow pursue
    greet welcome
    warn caution
    help assist aid
    visit
    call phone
    scold rebuke
    pay/paid reimburse
    """,
)

OPPOSITE_STATES = tuple(
    zip(
        _concepts("state", "awake alert\nrich wealthy\nhappy glad\ncalm relaxed\nhealthy fit\nbrave bold\nbusy occupied"
                  "\npolite courteous\nhonest truthful\nthin slim\nquiet silent\nearly"),
        _concepts("state", "asleep dozing\npoor penniless\nsad gloomy\nnervous anxious\nill sick\nafraid scared\nidle"
                  "\nrude impolite\ndeceitful lying\nfat plump\nnoisy loud\nlate"),
    )
)  # fmt: skip
STATES = tuple(state for pair in OPPOSITE_STATES for state in pair)

QUALITIES = _concepts(
    "quality",
    "old ancient\nbig large\nsmall little\nred crimson\nblue azure\ncheap inexpensive\ncostly expensive\nheavy weighty"
    "\nstrange odd\nwooden\nforeign\nfamous renowned\nbeautiful pretty\nrare scarce\nsturdy robust\nmodern\nyellow"
    "\ngreen\nround circular\nempty vacant",
)
PLACES = _concepts(
    "place",
    "garden yard\nkitchen\nforest woods\nharbour port\nshop store\nschool academy\nstation terminal\ncellar basement"
    "\nmuseum gallery\nvillage hamlet\noffice bureau\nhospital clinic\nattic loft\nstreet road\nhotel inn\ntheatre"
    "\nmarket bazaar\nlibrary\nchurch chapel\nfarm ranch",
)
TIMES = _concepts(
    "time",
    "yesterday\ntoday\nrecently lately\nagain anew\nsecretly covertly\nquickly rapidly\nslowly gradually\ncarefully"
    " cautiously\neventually finally\nsuddenly abruptly\nopenly publicly\nearlier before\ntwice\nalone",
)

# Sentiment has words of its own.
GOOD = _words(
    """
    admirable adorable amazing amusing appealing astonishing attractive authentic awesome balanced beautiful
    beguiling breathtaking bright brilliant captivating celebrated charming classy clever comfortable compelling
    convincing cosy crisp dazzling delectable delicate delicious delightful dependable divine dreamy dynamic
    effective efficient elegant enchanting endearing energetic engaging engrossing enjoyable entertaining ethereal
    excellent exceptional exciting exhilarating exquisite extraordinary fabulous fantastic fascinating faultless
    fine flawless flavourful fresh friendly fulfilling fun generous genuine glorious good gorgeous graceful gracious
    great gripping handsome handy harmonious heartfelt heartwarming helpful hilarious honest hospitable imaginative
    immaculate impeccable impressive ingenious innovative insightful inspired inspiring intelligent inventive
    inviting joyful kind likeable lively lovable lovely luminous luscious magical magnificent majestic marvellous
    masterful memorable mesmerising meticulous moving neat nimble noble nourishing original outstanding passionate
    perceptive perfect phenomenal playful pleasant pleasing poetic poignant polished powerful precise pristine
    profound radiant refined refreshing reliable remarkable rewarding rich riveting robust satisfying scrumptious
    seamless sensational sharp sincere sleek smart smooth snappy soothing sophisticated sparkling spectacular
    spirited splendid spotless stellar stirring stunning stylish sublime subtle succulent superb supportive
    surprising sweet swift tasteful tasty tender terrific thoughtful thrilling tidy timeless touching tremendous
    triumphant unforgettable upbeat uplifting valuable vibrant vivid warm welcoming whimsical wholesome winning wise
    witty wonderful worthwhile
    """
)
BAD = _words(
    """
    abrasive abysmal aggravating amateurish annoying appalling arrogant artificial atrocious average awful awkward
    bad baffling banal bitter bizarre bland bleak blurry boring botched broken bulky careless chaotic cheap cheesy
    childish clumsy clunky cold confused confusing contrived corny crass creaky crude cruel cumbersome cynical dated
    deplorable depressing derivative dirty disappointing disastrous disgusting dishonest dismal distasteful
    distracting dreadful dreary dry dull embarrassing empty erratic excruciating exhausting faulty feeble filthy
    flat flawed flimsy foolish forced forgettable formulaic frustrating fussy garish ghastly gloomy greasy grating
    grim grimy gross grotesque gruelling harsh hateful heartless hideous hollow hopeless horrendous horrible horrid
    hostile idiotic impolite inane incoherent inconsistent incompetent indifferent inept inferior insincere insipid
    insufferable insulting irritating joyless laboured lacklustre laughable lazy leaden lifeless limp listless lousy
    ludicrous lukewarm manipulative mediocre messy mindless miserable monotonous muddled mundane murky musty nasty
    nauseating noisy obnoxious odious offensive outdated overpriced overwrought painful pale pathetic pitiful
    plodding pointless pompous poor preachy predictable pretentious puny questionable rancid redundant repellent
    repetitive repulsive ridiculous rotten rough rude ruined rushed sad senseless shabby shallow shameful shoddy
    silly simplistic sloppy slow sluggish smug soggy soulless sour stale stiff stilted stingy stodgy strained stupid
    superficial tacky tasteless tedious tepid terrible thoughtless tiresome trite trivial ugly unbearable
    uncomfortable uneven unfair unfriendly unfunny uninspired unpleasant unreliable useless vacuous vague vapid vile
    vulgar wasteful weak wearisome wooden worthless wretched
    """
)
GOOD_NOUNS = _words("triumph delight joy masterpiece gem treat success pleasure marvel winner treasure revelation")
BAD_NOUNS = _words("disaster failure mess bore letdown flop nightmare nuisance fiasco disgrace travesty shambles")
GOOD_FEELINGS = _words("loved enjoyed adored liked admired cherished savoured recommended appreciated relished")
BAD_FEELINGS = _words("hated disliked loathed despised regretted detested resented endured dreaded deplored")
ASPECTS = _words(
    """
    plot acting music film story ending script cast dialogue camera director scenery soundtrack novel chapter author
    service waiter menu dessert soup wine breakfast staff kitchen table room lobby bed view pool location phone
    screen battery keyboard speaker design price delivery packaging app website update manual concert band album
    singer stage lecture teacher course trip guide museum tour train seat crew flight
    """
)
