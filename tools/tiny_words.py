"""Word lists, invented names and value samplers behind the text that `tiny` is pre-trained on.

All words are ordinary English vocabulary or composed of random syllables; no text of others is copied.
A sampler takes a random generator and returns one value of a record.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

ADJECTIVES = """
ancient bright broken busy calm cheap clean clever cold common cool copper crooked curious dark deep distant dry dusty
early eager elegant empty excellent expensive famous fancy fast fine flat fresh friendly full gentle giant glad golden
good grand great green happy hard heavy hidden high hollow honest huge humble iron jolly kind large late lazy light
little lively lonely long loud low lucky merry mighty modern modest narrow neat new noble noisy northern odd old open
pale patient plain pleasant polite poor popular pretty private proud public quick quiet rapid rare red rich rough round
royal rural sacred salty secret sharp shiny short silent silver simple slow small smooth soft solid southern spicy
steady steep stone strange strong sudden sunny sweet tall tasty thick thin tiny tired tough traditional tropical
twisted unusual upper useful vast velvet warm weak western wet white wide wild windy wise wonderful wooden young
adult affordable average beautiful casual central cosy decent delicious fantastic helpful local lovely mild moderate
nice outstanding perfect pricey reasonable relaxed upmarket welcoming
""".split()

NOUNS = """
acorn alley anchor angel apple arch archer arm arrow atlas autumn avenue badge bakery balloon banner barley barn barrel
basket bay beach beacon bear bell bench berry bird blossom boat bone book bottle boulder bow box branch brass bread
breeze brick bridge broom brook brother brush bucket button cabin cake camel candle cannon canyon captain card carpet
castle cat cellar chain chair chapel cherry chest chicken chimney circle clay cliff clock cloud clover coast coin comet
copper corner cottage cow cradle crane creek cricket cross crow crown crystal cup curtain daisy dawn deer desert
diamond dog dolphin door dove dragon drum duck eagle earth echo elm ember engine evening falcon farm feather fence
fern field fig finger fire fish flag flame flower flute forest fork fountain fox frog frost fruit garden gate ghost
giant glass globe glove goat goose grape grass grove hammer harbour hare harp harvest hat hawk hazel heart hedge heron
hill hive honey horn horse house hunter ink iron island ivy jar jewel kettle key king kite knight ladder lake lamb
lamp lane lantern leaf lemon library lily linen lion lodge loft mango maple marble market marsh meadow mill mint
mirror moon morning moth mountain mule needle nest night nut oak ocean olive onion orange orchard otter owl palace
palm panda paper parrot path peach pear pearl pebble pepper phoenix piano pier pigeon pine pipe plate plough plum pond
poppy potter prince quarry queen rabbit rain raven reed ribbon rice ring river road robin rocket roof rope rose saddle
sail salt sand school scroll seal seed shadow sheep shell shepherd ship shore silk sister sky smoke snow soap spice
spider spoon spring spruce square stable star station steam stone storm stream street sugar summer sun swan sword table
tailor temple thistle thorn thunder tiger timber tower town trader trail train tree tunnel turtle valley vault village
vine violet wagon walnut water waterfall wave wheat wheel willow wind windmill window wine winter wolf wood wren yard
angler bowl café centre customer family kitchen parlour quality terrace
""".split()

THINGS = """
books boots bread butter cars cheese chocolate clocks cloth coats coffee computers curtains dresses engines fabric fish
flour flowers fruit furniture games glass gloves hats honey jewels juice knives lamps leather machines maps meat medals
milk mirrors music nuts oil paint paper pasta pens pies pizza plates pots rice rugs salt sauces seeds shirts shoes silk
soap spices steel stones sugar swords tea tiles tools toys vegetables water wine wool burgers noodles salads sandwiches
snacks desserts drinks meals breakfast lunch dinner
""".split()

VERBS_PAST = """
admired answered bought built called carried caught chased chose cleaned climbed closed counted covered crossed drew
dropped examined fed fetched finished followed forgot found gathered gave helped hid kept knew left lifted lost loved
made mended met moved named noticed opened ordered packed painted planted praised pulled pushed reached remembered
repaired saved saw sent served shared showed sold stole studied taught tested took touched traded visited warned
washed watched wrote
""".split()

ADVERBS = """
again always carefully early easily finally gently happily highly later loudly nearly never often once only quickly
quietly rarely really silently slowly soon sometimes suddenly together twice usually very
""".split()

PREPOSITIONS = (
    *"""
above across after along around at before behind below beside beyond by inside near on opposite outside over past
through towards under with without
""".split(),
    "next to",
    "close to",
    "not far from",
)

NATIONALITIES = """
American Arabic Brazilian British Canadian Chinese Danish Dutch Egyptian English Finnish French German Greek Hungarian
Indian Irish Italian Japanese Kenyan Korean Mexican Moroccan Norwegian Persian Polish Portuguese Russian Scottish
Spanish Swedish Swiss Thai Turkish Vietnamese Welsh Peruvian Lebanese Cuban
""".split()

COLOURS = """
amber black blue brown crimson gold green grey orange pink purple red silver turquoise violet white yellow
""".split()
MATERIALS = """
brick bronze clay concrete copper glass granite iron leather marble oak paper pine plastic sand silk steel
""".split()
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
FIRST_NAMES = """
Ada Adam Alice Amir Anna Arthur Bella Ben Carla Carlos Clara Daniel David Diana Elena Emma Erik Eva Felix Fiona Frank
George Grace Hana Harry Helen Hugo Ida Ivan Jack James Jane John Julia Karim Kate Laura Leo Lily Linh Lucy Maria Mark
Martin Mary Maya Mia Nina Noah Olga Oliver Omar Oscar Paul Peter Rosa Ruth Sam Sara Simon Sofia Tariq Tom Vera Victor
William Yusuf Zoe
""".split()
TOWNS = """
Aberdeen Amsterdam Athens Bath Berlin Boston Bristol Brussels Cairo Cambridge Cardiff Chicago Copenhagen Dublin
Edinburgh Florence Geneva Hanoi Helsinki Istanbul Lima Lisbon London Madrid Manchester Mumbai Naples Oslo Oxford Paris
Prague Rome Seville Stockholm Sydney Tokyo Toronto Venice Vienna Warsaw York
""".split()
SUBJECTS = """art astronomy biology boats chemistry clocks cooking dance farming fashion geography geology history
insects law logic mathematics medicine music nature painting philosophy physics poetry railways science sculpture sport
theatre trade travel war weather weaving""".split()
AREAS = (
    """
riverside, city centre, town centre, harbour, old town, main square, railway station, northern suburbs, seaside,
market place, castle hill, river bank, university quarter, lake shore, south side, village green, centre of the city
""".replace("\n", " ")
    .strip()
    .split(", ")
)
NUMBERS = "one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred".split()
ONSETS = "b bl br c ch cr d dr f fl g gl gr h j k kl l m n p pr qu r s sh sk st t th tr v w z".split()
VOWELS = "a e i o u a e i o ai ea ee ia io oo ou y".split()
CODAS = "b ck d g l ll m n nd ng nt p r rd rk rn rt s ss st t th x".split()


def invented(rng: Random, longest: int = 4) -> str:
    """A capitalised word made of one to `longest` random syllables."""
    syllables = [
        rng.choice(ONSETS) + rng.choice(VOWELS) + (rng.choice(CODAS) if rng.random() < 0.4 else "")
        for _ in range(rng.randint(1, longest))
    ]
    return "".join(syllables).capitalize()


def word(rng: Random) -> str:
    """An ordinary capitalised English word, as names are made of."""
    return rng.choice(rng.choice((ADJECTIVES, NOUNS, NOUNS))).capitalize()


def proper_name(rng: Random) -> str:
    """A name of one to four words: invented, ordinary, possessive, numbered, with or without an article."""
    roll = rng.random()
    article = "The " if rng.random() < 0.35 else ""
    if roll < 0.22:
        return invented(rng)
    if roll < 0.50:
        return f"{article}{rng.choice(ADJECTIVES).capitalize()} {rng.choice(NOUNS).capitalize()}"
    if roll < 0.60:
        return f"{article}{invented(rng, 3)} {word(rng)}"
    if roll < 0.68:
        return f"{rng.choice((rng.choice(FIRST_NAMES), invented(rng, 2)))}'s {word(rng)}"
    if roll < 0.76:
        joint = rng.choice((" and ", " & ", " of ", " at the ", "-", " on "))
        return f"{article}{word(rng)}{joint}{word(rng)}"
    if roll < 0.82:
        return f"{invented(rng, 2)} {invented(rng, 3)}"
    if roll < 0.88:
        return f"{article}{word(rng)}"
    if roll < 0.94:
        return f"{article}{word(rng)} {word(rng)} {word(rng)}"
    return f"{word(rng)} {rng.randint(1, 999)}"


def person(rng: Random) -> str:
    """A person's name: a known or invented first name and a family name, sometimes with a title or an initial."""
    first = rng.choice(FIRST_NAMES) if rng.random() < 0.7 else invented(rng, 2)
    last = invented(rng, 3) if rng.random() < 0.7 else word(rng)
    roll = rng.random()
    if roll < 0.06:
        return f"{rng.choice(('Dr', 'Mr', 'Mrs', 'Captain', 'Professor'))} {last}"
    if roll < 0.12:
        return f"{first} {rng.choice('ABCDEFGHJKLMNPRSTW')}. {last}"
    return f"{first} {last}"


def place(rng: Random) -> str:
    """A town or a country, real or invented."""
    roll = rng.random()
    if roll < 0.35:
        return rng.choice(TOWNS)
    if roll < 0.45:
        first = rng.choice(("North", "South", "East", "West", "New", "Upper", "Port", "Lake", "San"))
        return f"{first} {invented(rng, 2)}"
    return invented(rng, 3)


def area(rng: Random) -> str:
    """A part of a town, with its article, as in "by the old harbour"."""
    if rng.random() < 0.5:
        return rng.choice(AREAS)
    return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"


def money(rng: Random) -> str:
    """An amount or a range of money."""
    low = rng.randint(1, 60)
    symbol = rng.choice("££££$€")
    return rng.choice(
        (
            f"{symbol}{low}",
            f"{symbol}{low}-{low + rng.randint(1, 15)}",
            f"less than {symbol}{low}",
            f"more than {symbol}{low}",
            f"{low} pounds",
            f"{symbol}{low},{rng.randint(0, 999):03d}",
        )
    )


def score(rng: Random) -> str:
    """A mark out of ten or of five, or a word for one."""
    top = rng.choice((5, 5, 10))
    return rng.choice(
        (f"{rng.randint(1, top)} out of {top}", rng.choice(("low", "average", "high", "excellent", "poor")))
    )


def amount(rng: Random) -> str:
    """A plain number, now and then in words, with a comma or with a decimal."""
    roll = rng.random()
    if roll < 0.2:
        return rng.choice(NUMBERS)
    if roll < 0.3:
        return f"{rng.randint(1, 99)},{rng.randint(0, 999):03d}"
    if roll < 0.4:
        return f"{rng.randint(0, 99)}.{rng.randint(0, 9)}"
    return str(rng.randint(2, 10 ** rng.randint(1, 4)))


def phrase(rng: Random) -> str:
    """A short noun phrase without an article: "silver fox", "old stone bridge"."""
    adjectives = " ".join(rng.sample(ADJECTIVES, rng.choice((0, 1, 1, 2))))
    return f"{adjectives} {rng.choice(NOUNS)}".strip()


def date(rng: Random) -> str:
    """A date with or without its year."""
    day = f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"
    return f"{day} {rng.randint(1500, 2030)}" if rng.random() < 0.5 else day


SAMPLERS: dict[str, Callable[[Random], str]] = {
    "name": proper_name,
    "person": person,
    "place": place,
    "area": area,
    "money": money,
    "score": score,
    "amount": amount,
    "phrase": phrase,
    "date": date,
    "year": lambda rng: str(rng.randint(1200, 2030)),
    "word": lambda rng: rng.choice(NOUNS),
    "adjective": lambda rng: rng.choice(ADJECTIVES),
    "nationality": lambda rng: rng.choice(NATIONALITIES),
    "colour": lambda rng: rng.choice(COLOURS),
    "material": lambda rng: rng.choice(MATERIALS),
    "things": lambda rng: (
        rng.choice(THINGS)
        if rng.random() < 0.6
        else f"{rng.choice((*NATIONALITIES, *ADJECTIVES))} {rng.choice(THINGS)}"
    ),
    "subject": lambda rng: rng.choice(SUBJECTS),
    "weekday": lambda rng: rng.choice(DAYS),
    "level": lambda rng: rng.choice("low moderate average high cheap expensive medium".split()),
    "yesno": lambda rng: rng.choice(("yes", "no")),
    "code": lambda rng: f"{rng.choice('ABCDEFGHKLMNPRSTXZ')}{rng.choice('ABCDEXZ-')}{rng.randint(1, 9999)}",
}
