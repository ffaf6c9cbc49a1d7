"""English texts made here, for the teacher to embed: short scenes and headlines from a small grammar, and real
sentences with a word exchanged or a part left out.

They come in families that share most of their words and differ in one: what the teacher thinks of such a difference
is what graded similarity is about, and other training text hardly shows it.
"""

import random
import re
from collections import defaultdict

PEOPLE = """man; woman; boy; girl; person; child; baby; lady; guy; young man; young woman; old man; old woman; little boy;
little girl; toddler; teenager; chef; cook; soldier; cyclist; dancer; singer; musician; worker; farmer; doctor; nurse;
teacher; student; skier; surfer; runner; climber; football player; basketball player; police officer; fisherman; bride;
tourist; gymnast; boxer; skateboarder; waiter; artist""".replace("\n", " ").split("; ")

ANIMALS = """dog; cat; horse; bird; monkey; elephant; lion; tiger; panda; rabbit; kitten; puppy; cow; sheep; goat; fish;
turtle; bear; fox; squirrel; duck; parrot; snake; frog; pig; hamster; zebra; giraffe; dolphin; owl; deer; mouse; seagull;
black dog; white cat; brown horse; small dog; polar bear; baby elephant""".replace("\n", " ").split("; ")

GROUPS = """two men; two women; three men; two boys; two girls; three children; some people; several people;
a group of people; a group of children; a couple; a crowd; a band; a family; four women; many people; the children;
the players""".replace("\n", " ").split("; ")

HERDS = "two dogs; three dogs; two cats; a flock of birds; a herd of cows; several horses; two zebras; some sheep".split("; ")

ACTIONS = {
    "playing": """the guitar; a guitar; the piano; a flute; the violin; the drums; a trumpet; the harp; football; soccer;
basketball; tennis; chess; cards; baseball; golf; volleyball; a video game; an instrument; the keyboard; the saxophone""",
    "slicing": """an onion; a tomato; a potato; a carrot; a cucumber; bread; an apple; an orange; meat; a fish; garlic;
a pepper; ginger; mushrooms; a lemon; cheese; butter; a melon; broccoli; tofu; pork; celery; a banana""",
    "cutting": "an onion; a tomato; a potato; paper; wood; hair; a cake; grass; a tree; a rope; meat; vegetables; a box",
    "chopping": "an onion; herbs; vegetables; wood; garlic; a cabbage; parsley",
    "peeling": "a potato; an apple; an orange; a carrot; a banana; an onion; a prawn; an egg",
    "riding": "a horse; a bicycle; a bike; a motorcycle; a skateboard; a bull; an elephant; a scooter; a train; a bus; a camel",
    "eating": "a sandwich; pizza; an apple; a banana; ice cream; rice; soup; noodles; breakfast; a salad; cake; food",
    "drinking": "water; coffee; milk; beer; wine; tea; juice; from a bottle",
    "cooking": "rice; pasta; dinner; fish; chicken; eggs; soup; vegetables; a meal",
    "frying": "an egg; fish; meat; potatoes; vegetables; onions",
    "mixing": "flour and water; eggs; batter; dough; vegetables; a drink; ingredients in a bowl",
    "pouring": "water into a glass; milk into a bowl; oil into a pan; sauce over rice; coffee into a cup; wine",
    "adding": "salt to water; oil to a pan; sugar to coffee; spices to meat; ingredients to a bowl",
    "washing": "dishes; a car; clothes; a dog; hands; the floor; a window; vegetables",
    "driving": "a car; a truck; a tractor; a bus; a race car; down the road",
    "throwing": "a ball; a knife; a frisbee; a stone; a snowball; a stick; paper",
    "kicking": "a ball; a door; a soccer ball; another player",
    "holding": "a baby; a sign; a camera; a microphone; an umbrella; a flag; flowers; a gun; a fish; a phone; a cat",
    "carrying": "a bag; a box; a child; a surfboard; a basket; firewood; a backpack",
    "reading": "a book; a newspaper; a letter; a map; a magazine; an email",
    "writing": "a letter; on a board; in a notebook; a song; with a pen; a note",
    "opening": "a door; a box; a can; a bottle; a present; a window; an envelope",
    "painting": "a wall; a picture; a fence; a house; a portrait",
    "drawing": "a picture; a face; on paper; a map; a horse",
    "fixing": "a car; a bicycle; a roof; a computer; a pipe; a tire",
    "building": "a house; a wall; a sandcastle; a fire; a snowman; a boat",
    "pushing": "a car; a cart; a stroller; a wheelchair; a swing; a box",
    "lifting": "weights; a box; a barbell; a child; a car",
    "feeding": "a baby; a horse; birds; a cat; ducks; a snake; a mouse to a snake",
    "petting": "a dog; a cat; a horse; a tiger; a rabbit",
    "catching": "a ball; a fish; a butterfly; a frisbee",
    "climbing": "a tree; a rock; a mountain; a wall; a ladder; stairs; a rope",
    "jumping over": "a fence; a wall; a hurdle; a puddle; a log; a bench",
    "shooting": "a gun; an arrow; a basketball; targets; a rifle; a film",
    "looking at": "a painting; a map; the sea; a camera; a phone; the sky; a book; a computer screen",
    "talking to": "a friend; a woman; a man; a crowd; a child; reporters; a doctor",
    "talking on": "a phone; the radio; a cell phone",
    "taking": "a picture; a photo; a bath; a nap; notes; a shower",
    "putting on": "makeup; a hat; shoes; a coat; lipstick; gloves",
    "wearing": "a hat; a red shirt; sunglasses; a helmet; a suit; a blue dress; a uniform",
    "chasing": "a ball; a cat; a dog; a rabbit; a bus; a thief",
    "selling": "fruit; flowers; newspapers; bread; fish at a market; tickets",
    "buying": "food; a car; a ticket; shoes; flowers; vegetables at a market",
    "watching": "television; a film; a game; birds; the sunset; a parade; a fire",
    "folding": "a shirt; paper; clothes; a blanket; a towel",
    "brushing": "teeth; hair; a dog; a horse; the floor",
}  # fmt: skip
ACTIONS = {verb: objects.replace("\n", " ").split("; ") for verb, objects in ACTIONS.items()}

ANIMAL_ACTIONS = {
    "chasing": "a ball; a cat; a mouse; a rabbit; another dog; its tail; a car",
    "eating": "grass; a leaf; fish; bamboo; a bone; seeds; a carrot; a banana; meat; hay",
    "playing with": "a ball; a toy; a child; a string; a stick; another animal; a mouse; water",
    "jumping over": "a fence; a log; a hurdle; a stream; a wall",
    "carrying": "a stick; a ball; a bone; a baby; a toy in its mouth",
    "drinking": "water; milk; from a bowl; from a river",
    "looking at": "the camera; a bird; a window; a mirror; a fish",
    "licking": "a bottle; a hand; an ice cream; its paw; a baby",
    "climbing": "a tree; a wall; a rope; a fence; a hill",
    "lying on": "a bed; the grass; a couch; the floor; a rug; a rock",
    "running through": "water; a field; the snow; the woods; mud; tall grass",
}
ANIMAL_ACTIONS = {verb: objects.split("; ") for verb, objects in ANIMAL_ACTIONS.items()}

BARE = """running; walking; sleeping; swimming; dancing; singing; talking; laughing; crying; jumping; sitting; standing;
smiling; working; exercising; lying down; waving; fighting; cooking; skiing; surfing; praying; fishing; hiking; diving;
whispering; yawning; shouting; speaking; thinking; eating; drinking; resting; waiting; typing; skating""".replace(
    "\n", " "
).split("; ")
ANIMAL_BARE = "running; sleeping; barking; swimming; walking; jumping; flying; eating; playing; resting; sitting".split("; ")

PLACES = """in the park; on the beach; in the snow; in the water; on a bench; in the street; near a lake; on a stage;
in front of a building; in a field; in a kitchen; on a couch; at a table; in the woods; on a mountain; in a pool; at night;
in a garden; on the grass; on a bed; in a room; on a road; in a river; in the rain; at a restaurant; in a boat; on a bridge;
in an office; in a car; under a tree; on the floor; in a stadium; at a bus stop; on a sidewalk; in a classroom; by the sea;
in a gym; on a roof; at a train station; in the mud; outside a shop; next to a wall; on a dirt road; in a cage; at home;
at sunset""".replace("\n", " ").split("; ")

THINGS = """red car; blue bus; train; airplane; white boat; motorcycle; bicycle; truck; old house; wooden bench; statue;
tall building; bridge; black motorcycle; yellow taxi; double decker bus; steam train; sailboat; chair; bed; laptop;
bowl of fruit; plate of food; vase of flowers; birthday cake; cup of coffee; stack of books; fire truck; helicopter;
kitchen; living room; bathroom; street; tree; lamp; clock; television; box of tools""".replace("\n", " ").split("; ")
STATES = """parked on the street; parked in front of a house; on the tracks; on the water; in the sky; on a table;
beside a river; near the sea; in a city; on a hill; covered in snow; on fire; in a garage; at a station; in the distance;
against a wall; on a runway; under a blue sky; by a lake; with the door open""".replace("\n", " ").split("; ")

COUNTRIES = """Israel; Iran; Iraq; Syria; Egypt; Russia; China; India; Pakistan; Afghanistan; Turkey; Ukraine; Greece;
Spain; France; Germany; Britain; Japan; North Korea; South Korea; Brazil; Mexico; Nigeria; Kenya; South Africa; Somalia;
Libya; Lebanon; Australia; Canada; Italy; Thailand; Bangladesh; Philippines; Indonesia; Vietnam; Colombia; Venezuela;
Cuba; Poland; the US; Saudi Arabia; Yemen; Mali; Sudan; Myanmar; Malaysia; Bulgaria; Norway; Chile""".replace(
    "\n", " "
).split("; ")
WHO = """police; troops; rebels; army; president; prime minister; government; court; opposition; protesters; militants;
foreign minister; parliament; central bank; officials; doctors; workers; students; security forces; gunmen; judge;
company; airline; rescuers; scientists; negotiators; former leader; coach; lawmakers""".replace("\n", " ").split("; ")
NEWS = """kill {n} in {place} attack; arrest {n} over {place} protest; warn of new {threat}; reject {plan};
back {plan}; call for {plan}; vote on {plan}; delay {plan}; sign {plan} with {place}; deny role in {threat};
investigate {threat}; condemn {threat} in {place}; say {n} dead in {event}; report {n} injured in {event};
search for survivors of {event}; begin talks with {place}; end talks with {place}; visit {place};
cut ties with {place}; win election; lose election; raise interest rates; cut interest rates; expect slower growth;
agree on {plan}; release {n} prisoners; free hostages in {place}; demand inquiry into {event}; fear more {threat};
send aid after {event}; close border with {place}; clash with protesters; face trial over {threat};
suspend flights to {place}; announce {plan}; defend {plan}; recover bodies after {event}""".replace("\n", " ").split("; ")
THREATS = """nuclear test; missile launch; bomb attack; drone strike; cyber attack; flooding; violence; corruption;
fraud; chemical weapons; air strike; suicide bombing; shooting; kidnapping; spying; a coup; sanctions; war""".replace(
    "\n", " "
).split("; ")
PLANS = """peace deal; trade deal; budget; tax rise; spending cuts; ceasefire; new law; nuclear deal; reform plan;
bailout; climate pact; gun control; UN resolution; merger; rescue package; emergency powers; strike; new constitution""".replace(
    "\n", " "
).split("; ")
EVENTS = """earthquake; bus crash; train crash; plane crash; ferry sinking; building collapse; mine blast; car bombing;
storm; typhoon; factory fire; landslide; flood; helicopter crash; school shooting; explosion; stampede; boat accident""".replace(
    "\n", " "
).split("; ")
MARKET = """shares; stocks; oil prices; profits; sales; exports; the dollar; the euro; gold; house prices; unemployment;
inflation; consumer confidence; the index; bond yields; car sales""".replace("\n", " ").split("; ")
MOVES = """rose; fell; climbed; dropped; jumped; slid; gained; lost; edged up; edged down; were unchanged; surged""".split("; ")
REASONS = """in the third quarter; on Friday; after weak data; on hopes of a deal; on strong earnings; this year;
to a record high; to a two-year low; as investors waited for the report; on Wall Street; in early trading;
despite fears of recession; from a year earlier; last month; the company said; officials said on Tuesday""".replace(
    "\n", " "
).split("; ")


def article(noun: str) -> str:
    return noun if noun.split()[0] in ("a", "an", "the", "two", "three", "some") else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def be(subject: str) -> str:
    plural = subject.split()[0] in ("two", "three", "four", "some", "several", "many") or subject in (
        "the children",
        "the players",
    )
    return "are" if plural else "is"


def scene(shuffle: random.Random) -> str:
    """One sentence like the caption of a picture or a short film."""
    kind = shuffle.random()
    if kind < 0.12:
        return f"{article(shuffle.choice(THINGS))} {shuffle.choice(STATES)}."
    beast = kind < 0.35
    if shuffle.random() < 0.2:
        subject = shuffle.choice(HERDS if beast else GROUPS)
    else:
        subject = article(shuffle.choice(ANIMALS if beast else PEOPLE))
        if shuffle.random() < 0.15:
            subject = "the" + subject[subject.index(" ") :]
    actions = ANIMAL_ACTIONS if beast else ACTIONS
    if shuffle.random() < 0.3:
        act = shuffle.choice(ANIMAL_BARE if beast else BARE)
    else:
        verb = shuffle.choice(list(actions))
        act = f"{verb} {shuffle.choice(actions[verb])}"
    where = f" {shuffle.choice(PLACES)}" if shuffle.random() < 0.4 else ""
    verb = f" {be(subject)}" if shuffle.random() < 0.75 else ""
    if shuffle.random() < 0.04:
        verb, act = f" {be(subject)} not", act
    return f"{subject}{verb} {act}{where}."


def headline(shuffle: random.Random) -> str:
    kind = shuffle.random()
    place = shuffle.choice(COUNTRIES)
    if kind < 0.2:
        subject = shuffle.choice(MARKET)
        percent = f" {shuffle.randint(1, 9)}.{shuffle.randint(0, 9)} percent" if shuffle.random() < 0.6 else ""
        return f"{subject} {shuffle.choice(MOVES)}{percent} {shuffle.choice(REASONS)}"
    form = shuffle.choice(NEWS)
    count = str(shuffle.choice([2, 3, 4, 5, 7, 8, 10, 12, 15, 20, 30, 50, 100]))
    act = form.format(
        n=count,
        place=shuffle.choice(COUNTRIES),
        threat=shuffle.choice(THREATS),
        plan=shuffle.choice(PLANS),
        event=shuffle.choice(EVENTS),
    )
    if kind < 0.35:
        return f"At least {count} dead in {place} {shuffle.choice(EVENTS)}"
    return f"{place} {shuffle.choice(WHO)} {act}"


def sentence_case(text: str) -> str:
    return text[0].upper() + text[1:]


def scenes(count: int, seed: int) -> list:
    shuffle = random.Random(seed)
    return list(dict.fromkeys(sentence_case(scene(shuffle)) for _ in range(count)))


def headlines(count: int, seed: int) -> list:
    shuffle = random.Random(seed)
    return list(dict.fromkeys(sentence_case(headline(shuffle)) for _ in range(count)))


WORD = re.compile(r"[A-Za-z][a-z]{3,}")


def variants(texts: list, glosses: list, count: int, seed: int) -> list:
    """Real sentences with one or two words exchanged for a synonym or a word of the same field, or shortened.

    `glosses` are (field, words of one meaning).
    """
    shuffle = random.Random(seed)
    synonyms, field_of, fields = {}, {}, defaultdict(list)
    for field, words in glosses:
        words = [word for word in words if WORD.fullmatch(word)]
        for word in words:
            if word not in field_of:
                field_of[word] = field
                synonyms[word] = [other for other in words if other != word]
                fields[field].append(word)
    made = {}
    while len(made) < count:
        text = shuffle.choice(texts)
        words = text.split(" ")
        if not 4 <= len(words) <= 24:
            continue
        known = [place for place, word in enumerate(words) if word in field_of]
        kind = shuffle.random()
        if kind < 0.25 or not known:
            begin = shuffle.randint(0, len(words) // 2)
            words = words[begin : begin + shuffle.randint(3, len(words))]
        else:
            for place in shuffle.sample(known, min(len(known), 1 + (shuffle.random() < 0.3))):
                word = words[place]
                choices = synonyms[word] if kind < 0.5 else fields[field_of[word]]
                words[place] = shuffle.choice(choices or fields[field_of[word]])
        made[" ".join(words)] = None
    return list(made)
