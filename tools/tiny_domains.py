"""The domains of `tiny`'s pre-training text: kinds of things, their attributes, and phrases for them.

A domain is written as one block: a heading `kinds ; pronouns ; name sampler`, then one line per attribute
`keys | sampler | predicates | modifiers | pre-modifiers`. Alternatives are separated by ";", `{}` stands for the value
and `a(n)` for the article that fits. For a yes-or-no attribute an alternative is `said of yes // said of no`.
None of the domains is a bundled sample task (`tests/test_tiny.py`).
"""

# ruff: noqa: E501 (one line an attribute, however long)
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attribute:
    """One attribute of a domain: its key's spellings, its value sampler and the phrases that state it."""

    keys: tuple[str, ...]
    sampler: str
    predicates: tuple[str, ...]
    modifiers: tuple[str, ...]
    premodifiers: tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    """A kind of thing: the nouns for it, the pronouns, how its names are made, and its attributes."""

    kinds: tuple[str, ...]
    pronouns: tuple[str, ...]
    name_sampler: str
    attributes: tuple[Attribute, ...]


SITED = """
city,location,place,town,where | place | is in {};lies in {};is located in {};can be found in {};stands in {} | in {};located in {};situated in {} |
area,setting,district,part of town | area | is in the {};is located by the {};lies in the area of the {};can be found at the {} | in the {};by the {};at the {} |
near,next to,close to,neighbour | name | is near {};is close to {};stands next to {};is located near {};can be found beside {} | near {};next to {};close to {};not far from {} |
"""
VISITED = """
price,price range,cost,entry,ticket | money | costs {};has prices of {};has a price range of {};charges {};asks {} for entry | with prices of {};for {};in the {} price range |
price level,prices,price range | level | has {} prices;is in the {} price range;has a(n) {} price range;keeps its prices {} | with {} prices;in the {} price range;with a(n) {} price range | {}
rating,customer rating,visitor rating,score,stars | score | is rated {};has a rating of {};has a customer rating of {};was given {} by its visitors;gets {} from customers | with a rating of {};rated {};with a(n) {} customer rating |
families,family friendly,good for children,children welcome | yesno | is family friendly // is not family friendly;welcomes families // does not welcome families;is good for children // is not good for children;is child friendly // is not child friendly;allows children // does not allow children | for the whole family // for adults only;where children are welcome // where children are not welcome | family friendly // adult only;child friendly //
offers,sells,known for,speciality | things | sells {};offers {};is known for {};serves its visitors with {};provides {} | known for its {};selling {};with {};that offers {} |
style,type,manner | nationality | is {};is {} in style;offers things in the {} style | in the {} style | {}
opened,founded,since,year | year | opened in {};was founded in {};has been open since {} | opened in {};from {} |
owner,run by | person | is owned by {};is run by {};belongs to {} | owned by {};run by {} |
closed on,day off | weekday | is closed on {};does not open on {} | closed on {} |
"""
HUMAN = """
born in,birthplace,home town,from | place | was born in {};comes from {};grew up in {} | from {};born in {} |
birth year,born,birth date | date | was born on {} | born on {} |
nationality,country | nationality | is {};has a(n) {} passport | | {}
colleague,friend,partner | person | works with {};is a friend of {};met {} at school | who works with {} |
children | amount | has {} children | with {} children |
award,prize | name | won the prize "{}";received the award "{}" | who won "{}" |
lives in,residence | place | lives in {};has a house in {} | living in {} |
"""
MADE = """
maker,made by,manufacturer,built by | name | was built by {};is made by {};comes from {} | made by {};by {} |
weight,mass | amount | weighs {} kilograms;has a weight of {} kilograms | of {} kilograms |
colour | colour | is {};is painted {};comes in {} | in {} | {}
material,made of | material | is made of {};is built from {} | made of {} | {}
price,cost | money | costs {};is sold for {};can be bought for {} | for {} |
year,introduced,first built | year | was first built in {};appeared in {};dates from {} | from {} |
length,size | amount | is {} metres long;measures {} metres | {} metres long |
quality,rating | score | is rated {};has a rating of {} | with a rating of {} |
"""

_BLOCKS = f"""
museum;gallery;collection # It # name
{SITED}{VISITED}
exhibits,shows,collection | things | shows {{}};has a collection of {{}};is full of {{}} | of {{}};with a collection of {{}} |
park;garden;public garden # It # name
{SITED}{VISITED}
trees,planted with | word | is full of {{}} trees | with {{}} trees |
shop;store;market stall # It # name
{SITED}{VISITED}
cinema;theatre;music hall # It # name
{SITED}{VISITED}
seats,capacity | amount | seats {{}};has {{}} seats;has room for {{}} people | with {{}} seats |
bookshop;library;reading room # It # name
{SITED}{VISITED}
sports club;swimming pool;gym # It # name
{SITED}{VISITED}
workshop;bakery;brewery # It # name
{SITED}{VISITED}
zoo;aquarium;farm # It # name
{SITED}{VISITED}
keeps,animals | word | keeps a(n) {{}};is home to a(n) {{}} | with a(n) {{}} |
building;tower;castle;bridge;palace # It # name
{SITED}
architect,designed by | person | was designed by {{}};is the work of {{}} | designed by {{}} |
floors,storeys | amount | has {{}} floors;rises {{}} floors | with {{}} floors |
height | amount | is {{}} metres high;reaches {{}} metres | {{}} metres high |
material | material | is built of {{}};is made of {{}} | built of {{}} | {{}}
completed,built,year | year | was completed in {{}};was built in {{}} | built in {{}} |
style | nationality | is {{}} in style | in the {{}} style | {{}}
protected,listed | yesno | is protected // is not protected;is open to visitors // is closed to visitors | |
school;college;university # It # name
{SITED}
pupils,students | amount | has {{}} pupils;teaches {{}} students | with {{}} pupils |
head,principal,director | person | is led by {{}};is headed by {{}} | led by {{}} |
subject,teaches | subject | teaches {{}};is known for {{}} | known for {{}} |
founded | year | was founded in {{}} | founded in {{}} |
motto | phrase | has the motto "{{}}" | |
girls admitted,mixed | yesno | admits girls // does not admit girls | |
singer;painter;writer;actor;scientist # He;She # person
{HUMAN}
field,known for,subject | subject | is known for {{}};studied {{}};teaches {{}} | known for {{}} |
work,best known work,masterpiece | name | wrote "{{}}";is best known for {{}};made {{}} | who wrote {{}} |
footballer;swimmer;runner;chess player # He;She # person
{HUMAN}
club,team | name | plays for {{}};joined {{}} | of {{}} |
height | amount | is {{}} centimetres tall | {{}} centimetres tall |
record | amount | won {{}} matches;holds {{}} records | with {{}} victories |
left-handed | yesno | is left-handed // is not left-handed | | left-handed // right-handed
minister;senator;mayor # He;She # person
{HUMAN}
party | name | belongs to the {{}} Party;speaks for the {{}} Party | of the {{}} Party |
took office,elected | year | was elected in {{}};took office in {{}} | elected in {{}} |
successor,followed by | person | was followed by {{}} | |
book;novel;poem # It # name
author,writer | person | was written by {{}};is the work of {{}} | by {{}};written by {{}} |
year,published | year | was published in {{}};came out in {{}};appeared in {{}} | from {{}};published in {{}} |
publisher | name | was printed by {{}};is sold by {{}} | from {{}} |
pages,length | amount | has {{}} pages;is {{}} pages long | of {{}} pages |
subject,about,topic | subject | is about {{}};deals with {{}} | about {{}} |
language | nationality | is written in {{}} | in {{}} | {{}}
hero,main character | person | tells the story of {{}};follows {{}} | about {{}} |
price | money | costs {{}};sells for {{}} | for {{}} |
rating,readers say | score | is rated {{}};has a reader rating of {{}} | rated {{}} |
translated | yesno | has been translated // has not been translated | |
film;play;television series # It # name
director,directed by | person | was directed by {{}};is the work of {{}} | directed by {{}};by {{}} |
star,lead actor,starring | person | stars {{}};features {{}} | starring {{}} |
year,release | year | was released in {{}};came out in {{}} | from {{}} |
minutes,length | amount | lasts {{}} minutes;runs for {{}} minutes | of {{}} minutes |
country,origin | nationality | is {{}};was made by a(n) {{}} company | | {{}}
budget | money | cost {{}};had a budget of {{}} | with a budget of {{}} |
rating,critics | score | is rated {{}};was given {{}} by the critics | rated {{}} |
for children,family film | yesno | is for children // is not for children;is a family film // is for adults only | for all ages // for adults |
song;album;symphony # It # name
singer,artist,composer | person | was sung by {{}};was written by {{}} | by {{}} |
year | year | was recorded in {{}};appeared in {{}} | from {{}} |
label | name | was sold by {{}} | from {{}} |
chart position,peak | amount | reached number {{}} in the charts | |
mood | adjective | is {{}};sounds {{}} | | {{}}
key | code | is catalogued as {{}} | |
animal;bird;fish;insect # It # name
home,lives in,habitat | place | lives in {{}};is found in {{}} | from {{}};of {{}} |
food,eats,diet | things | eats {{}};feeds on {{}};likes {{}} | that eats {{}} |
weight | amount | weighs {{}} grams;can weigh {{}} kilograms | of {{}} kilograms |
colour | colour | is {{}};has {{}} feathers;has a(n) {{}} tail | with a(n) {{}} back | {{}}
enemy,hunted by | word | is hunted by the {{}};fears the {{}} | |
life span,years | amount | lives for {{}} years | |
temper | adjective | is {{}};is very {{}} | | {{}}
endangered,protected | yesno | is endangered // is not endangered;is rare // is common | | rare // common
flower;tree;herb;plant # It # name
grows in,origin | place | grows in {{}};comes from {{}} | from {{}} |
colour | colour | has {{}} flowers;is {{}} | with {{}} leaves | {{}}
height | amount | grows to {{}} metres;is {{}} centimetres high | {{}} metres tall |
flowers in,season | weekday | flowers in spring and is watered on {{}} | |
named after,discoverer | person | was named after {{}};was found by {{}} | named after {{}} |
used for | things | is used for {{}};goes well with {{}} | used for {{}} |
poisonous | yesno | is poisonous // is not poisonous;can be eaten by no one // can be eaten | | poisonous // harmless
planet;moon;star;comet # It # name
discovered by,discoverer | person | was discovered by {{}};was first seen by {{}} | discovered by {{}} |
year,discovered | year | was discovered in {{}};was first seen in {{}} | |
moons | amount | has {{}} moons | with {{}} moons |
distance | amount | is {{}} light years away;lies {{}} light years from us | {{}} light years away |
colour | colour | is {{}};shines {{}} | | {{}}
temperature | amount | has a temperature of {{}} degrees;reaches {{}} degrees | |
orbits,circles | name | circles {{}};moves around {{}} | near {{}} |
rings | yesno | has rings // has no rings | with rings // without rings |
river;lake;mountain;island;valley # It # name
country,region | place | is in {{}};lies in {{}};can be found in {{}} | in {{}};of {{}} |
length,height,size | amount | is {{}} kilometres long;measures {{}} kilometres | of {{}} kilometres |
near,neighbour,next to | name | lies near {{}};is close to {{}} | near {{}} |
highest point,source | name | begins at {{}};has its highest point at {{}} | |
climate | adjective | is {{}};is known to be {{}} | | {{}}
fish,wildlife | word | is home to the {{}};is known for its {{}} | |
city;town;village;country # It # place
region,country | place | is in {{}};belongs to {{}};is part of {{}} | in {{}} |
population,people | amount | has {{}} inhabitants;has a population of {{}} | of {{}} people |
mayor,leader | person | is led by {{}};has {{}} as its leader | |
river | name | stands on the river {{}};lies by the river {{}} | on the river {{}} |
founded | year | was founded in {{}};is first named in {{}} | founded in {{}} |
products,industry,famous for | things | produces {{}};is famous for {{}};sells {{}} to its neighbours | famous for {{}} |
language | nationality | speaks {{}};is mainly {{}} | | {{}}
company;firm;bank # It # name
founder | person | was founded by {{}};was started by {{}} | founded by {{}} |
year,founded,since | year | was founded in {{}};has existed since {{}} | from {{}} |
headquarters,based in | place | is based in {{}};has its head office in {{}} | from {{}};based in {{}} |
workers,staff,employees | amount | employs {{}} people;has a staff of {{}} | with {{}} workers |
products,makes | things | makes {{}};sells {{}};trades in {{}} | that makes {{}} |
profit,revenue | money | earned {{}};made a profit of {{}} | |
director,head | person | is led by {{}};is run by {{}} | led by {{}} |
listed | yesno | is on the stock market // is not on the stock market;takes private customers // takes no private customers | |
ship;boat;submarine # It;She # name
{MADE}
captain | person | is commanded by {{}};sails under {{}} | under {{}} |
home port,harbour | place | sails from {{}};has its home in {{}} | of {{}} |
cargo,carries | things | carries {{}};is loaded with {{}} | carrying {{}} |
car;bicycle;tractor;engine;machine # It # name
{MADE}
speed | amount | reaches {{}} kilometres an hour;has a top speed of {{}} | |
fuel | things | runs on {{}} | |
electric | yesno | is electric // is not electric;needs no petrol // needs petrol | | electric // petrol
aircraft;balloon;rocket # It # code
{MADE}
pilot | person | was first flown by {{}} | flown by {{}} |
range | amount | flies {{}} kilometres;has a range of {{}} kilometres | |
clock;lamp;chair;table;bag # It # name
{MADE}
suits,use | word | is made for the {{}};suits every {{}} | for the {{}} |
waterproof | yesno | is waterproof // is not waterproof | | waterproof // delicate
computer program;operating system;video game # It # name
version | code | is now at version {{}} | |
author,developer | person | was written by {{}};is developed by {{}} | by {{}} |
licence price,price | money | costs {{}};is sold for {{}} | for {{}} |
language | word | is written in the {{}} language | |
users | amount | has {{}} users;is used by {{}} people | with {{}} users |
free | yesno | is free // is not free;works offline // needs a connection | | free // commercial
rating | score | is rated {{}};has a user rating of {{}} | rated {{}} |
match;race;tournament # It # name
winner | person | was won by {{}};ended with a victory for {{}} | won by {{}} |
second,runner-up | person | left {{}} in second place;saw {{}} come second | |
score,result | amount | ended with {{}} points;had a result of {{}} | with {{}} points |
place,venue | place | was held in {{}};took place in {{}} | in {{}} |
date | date | was held on {{}};took place on {{}} | on {{}} |
spectators,crowd | amount | was seen by {{}} people;drew a crowd of {{}} | |
concert;festival;fair;meeting # It # name
{SITED}
date,when | date | takes place on {{}};begins on {{}} | on {{}} |
guest,speaker,host | person | is opened by {{}};has {{}} as its guest | with {{}} |
entry,price | money | costs {{}};has tickets for {{}} | for {{}} |
day | weekday | is held every {{}};starts on {{}} | on {{}} |
open to all,families | yesno | is open to all // is for members only;is family friendly // is not family friendly | |
battle;war;treaty;election # It # name
year | year | took place in {{}};dates from {{}} | of {{}} |
place | place | took place in {{}};was decided in {{}} | in {{}} |
winner,victor | person | was won by {{}} | won by {{}} |
loser | person | was lost by {{}};was the end of {{}} | |
votes,losses | amount | cost {{}} lives;counted {{}} votes | |
stone;mineral;metal # It # name
colour | colour | is {{}};shines {{}} | | {{}}
hardness | score | has a(n) {{}} hardness;is rated {{}} for hardness | |
found in,mined in | place | is mined in {{}};is found in {{}} | from {{}} |
price | money | costs {{}} a gram;sells for {{}} | |
used for | things | is used for {{}};goes into {{}} | |
feel | adjective | is {{}};feels {{}} | | {{}}
game;puzzle;toy # It # name
players | amount | is played by {{}} people;needs {{}} players | for {{}} players |
inventor | person | was invented by {{}} | invented by {{}} |
price | money | costs {{}} | for {{}} |
pieces | amount | has {{}} pieces | with {{}} pieces |
colour | colour | comes in a(n) {{}} box | | {{}}
ages,families | yesno | is good for families // is not good for families | |
language;dialect # It # name
spoken in | place | is spoken in {{}};comes from {{}} | of {{}} |
speakers | amount | has {{}} speakers;is spoken by {{}} people | with {{}} speakers |
word for water | word | has borrowed the word "{{}}" | |
first written | year | was first written in {{}} | |
sound | adjective | sounds {{}} | | {{}}
newspaper;magazine;radio station # It # name
city,based in | place | comes from {{}};is based in {{}} | from {{}} |
editor | person | is edited by {{}} | edited by {{}} |
topic | subject | writes about {{}};covers {{}} | about {{}} |
readers | amount | has {{}} readers;is read by {{}} people | with {{}} readers |
price | money | costs {{}} | |
appears on | weekday | appears on {{}} | |
knight;king;queen;hero;wizard # He;She # person
{HUMAN}
castle,home | name | lives at {{}};rules from {{}} | of {{}} |
enemy | person | fought {{}};was the enemy of {{}} | |
sword,treasure | name | carried {{}};lost {{}} in the forest | with {{}} |
temper | adjective | was {{}};is said to have been {{}} | | {{}}
horse,dog | phrase | owned a(n) {{}};had a(n) {{}} | with a(n) {{}} |
"""


def _alternatives(cell: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(";") if part.strip())


def _attribute(line: str) -> Attribute:
    cells = [*line.split("|"), "", ""]
    keys = tuple(key.strip() for key in cells[0].split(","))
    return Attribute(keys, cells[1].strip(), _alternatives(cells[2]), _alternatives(cells[3]), _alternatives(cells[4]))


def _domains(text: str) -> tuple[Domain, ...]:
    found: list[tuple[list[str], list[Attribute]]] = []
    for line in filter(str.strip, text.splitlines()):
        if "#" in line:
            found.append(([cell.strip() for cell in line.split("#")], []))
        else:
            found[-1][1].append(_attribute(line))
    return tuple(
        Domain(_alternatives(kinds), _alternatives(pronouns), names, tuple(attributes))
        for (kinds, pronouns, names), attributes in found
    )


DOMAINS: tuple[Domain, ...] = _domains(_BLOCKS)
