"""Words of the synthetic world: topics with their own nouns in four languages, names, sentence patterns.

Data only. A topic's first ten words are English, then six each of German, French and Spanish.
"""

LANGUAGES = ("en", "de", "fr", "es")
COUNTRIES = ("US", "GB", "DE", "AT", "FR", "BE", "ES", "MX")
"""Two per language, in the order of LANGUAGES."""

_WORDS = {
    "football": "penalty striker derby goalkeeper stadium transfer midfield coach league header"
    " Elfmeter Stürmer Torwart Stadion Trainer Abstieg pelouse gardien attaquant tribune mercato hors-jeu"
    " delantero portero cancha árbitro fichaje goleada",
    "tennis": "backhand racket serve tiebreak grandslam volley baseline umpire forehand clay"
    " Rückhand Aufschlag Schläger Satzball Sandplatz Netzroller revers raquette filet terre-battue tournoi manche"
    " raqueta saque revés torneo arcilla volea",
    "cycling": "peloton derailleur sprint climb jersey saddle breakaway velodrome tandem gravel"
    " Rennrad Sattel Bergetappe Ausreißer Kettenblatt Radweg vélo maillot échappée guidon étape dérailleur"
    " bicicleta maillot puerto escapada sillín manillar",
    "cooking": "sourdough skillet marinade garlic stew oven seasoning pastry broth recipe"
    " Sauerteig Pfanne Knoblauch Eintopf Backofen Rezept levain poêle marinade ail bouillon recette"
    " sartén guiso adobo horno receta caldo",
    "gardening": "compost seedling pruning greenhouse tulip mulch trowel orchard hedge perennial"
    " Kompost Setzling Gewächshaus Tulpe Hecke Beet compost semis serre tulipe haie potager"
    " abono semillero invernadero tulipán seto huerto",
    "travel": "itinerary hostel passport ferry backpack souvenir layover lagoon visa roadtrip"
    " Reisepass Fähre Rucksack Unterkunft Rundreise Strand auberge passeport traversier valise escale plage"
    " pasaporte hostal mochila maleta escala playa",
    "politics": "parliament ballot coalition senator referendum budget minister debate amendment caucus"
    " Bundestag Wahlkampf Koalition Minister Haushalt Opposition scrutin ministre sénat budget coalition motion"
    " congreso votación ministro coalición presupuesto reforma",
    "economy": "inflation tariff bond dividend recession startup payroll currency merger interest"
    " Zinsen Inflation Aktie Anleihe Rezession Steuer bourse impôt dette emploi croissance monnaie"
    " inflación deuda bolsa empleo impuesto moneda",
    "science": "genome telescope neutrino fossil enzyme particle experiment vaccine quantum microscope"
    " Teleskop Fossil Teilchen Impfstoff Labor Erbgut génome fossile vaccin microscope laboratoire particule"
    " genoma telescopio vacuna fósil laboratorio partícula",
    "space": "rocket orbit lander astronaut crater payload satellite nebula launchpad rover"
    " Rakete Umlaufbahn Satellit Krater Raumfahrer Start fusée orbite satellite cratère astronaute lanceur"
    " cohete órbita satélite cráter astronauta despegue",
    "climate": "emissions glacier drought turbine wetland carbon heatwave monsoon reforestation sealevel"
    " Gletscher Dürre Windkraft Hitzewelle Klimaziel Moor glacier sécheresse éolienne canicule carbone crue"
    " glaciar sequía turbina carbono inundación ola-de-calor",
    "health": "vitamin sleep therapy insulin posture allergy cardio hydration physician recovery"
    " Schlaf Therapie Allergie Haltung Arzt Erholung sommeil thérapie allergie médecin posture vitamine"
    " sueño terapia alergia médico postura vitamina",
    "gaming": "console speedrun quest multiplayer controller loot boss patch arcade respawn"
    " Konsole Endgegner Mehrspieler Spielstand Quest Gamepad manette quête console boss partie niveau"
    " consola mando misión jefe partida nivel",
    "music": "guitar chorus vinyl festival drummer remix ballad encore melody synthesizer"
    " Gitarre Refrain Schallplatte Konzert Schlagzeug Melodie guitare refrain vinyle concert batterie mélodie"
    " guitarra estribillo vinilo concierto batería melodía",
    "film": "director screenplay premiere sequel documentary casting cinematography trailer noir animation"
    " Drehbuch Premiere Regisseur Fortsetzung Leinwand Filmmusik réalisateur scénario suite tournage cinéma affiche"
    " guion estreno directora secuela rodaje cartelera",
    "books": "novel memoir paperback librarian thriller chapter poetry bestseller manuscript bookshop"
    " Roman Lesung Taschenbuch Krimi Kapitel Bücherei roman polar chapitre librairie poésie manuscrit"
    " novela capítulo librería poesía manuscrito ensayo",
    "fashion": "runway denim tailor sneaker silk vintage collar handbag linen boutique"
    " Laufsteg Schneider Seide Handtasche Leinen Mantel défilé soie couture sac lin manteau"
    " pasarela seda sastre bolso lino abrigo",
    "software": "compiler refactor kubernetes database latency opensource debugger typescript commit firewall"
    " Datenbank Fehlersuche Quelltext Schnittstelle Compiler Rechenzentrum logiciel"
    " base-de-données compilateur serveur bogue dépôt"
    " compilador servidor depuración código despliegue repositorio",
    "robotics": "actuator drone gripper lidar servo humanoid sensor exoskeleton autopilot prototype"
    " Greifarm Drohne Sensor Roboter Antrieb Prototyp drone capteur pince robot moteur prototype"
    " dron sensor pinza motor robot prototipo",
    "pets": "puppy kitten leash aquarium hamster groomer terrier vet parrot litterbox"
    " Welpe Kätzchen Leine Aquarium Tierarzt Papagei chiot chaton laisse aquarium perroquet vétérinaire"
    " cachorro gatito correa acuario loro veterinaria",
    "parenting": "toddler nursery bedtime stroller homework playground lullaby daycare teething tantrum"
    " Kleinkind Kita Kinderwagen Hausaufgaben Spielplatz Schlaflied poussette crèche devoirs berceuse doudou goûter"
    " guardería cochecito deberes canción-de-cuna recreo pañal",
    "photography": "aperture tripod lens portrait darkroom shutter exposure panorama flash negative"
    " Blende Stativ Objektiv Belichtung Dunkelkammer Porträt objectif trépied obturateur portrait pellicule flash"
    " objetivo trípode retrato obturador carrete encuadre",
    "history": "empire cathedral medieval treaty archive dynasty excavation viking monastery manuscripts"
    " Kaiserreich Burg Vertrag Ausgrabung Kloster Archiv empire château traité fouilles abbaye archives"
    " imperio castillo tratado excavación monasterio archivo",
    "chess": "gambit endgame bishop checkmate grandmaster opening rook blunder castling zugzwang"
    " Läufer Schachmatt Eröffnung Endspiel Großmeister Rochade gambit fou échec finale tour ouverture"
    " gambito alfil jaque apertura torre enroque",
}  # fmt: skip

TOPICS = tuple(_WORDS)

NOUNS: dict[str, tuple[tuple[str, ...], ...]] = {
    language: tuple(tuple(words.split()[start:stop]) for words in _WORDS.values())
    for language, start, stop in (("en", 0, 10), ("de", 10, 16), ("fr", 16, 22), ("es", 22, 28))
}
"""For each language one tuple of nouns per topic, in the order of TOPICS."""

FIRST_NAMES: tuple[str, ...]
LAST_NAMES: tuple[str, ...]
FIRST_NAMES, LAST_NAMES = (
    tuple(names.split())
    for names in (
        "Ada Amir Ana Boris Carla Chen Dana Elif Emil Farah Felix Grace Hana Hugo Ines Ivan Jonas Kofi Lars Leila"
        " Lena Luca Maya Mei Milan Nadia Noah Olga Omar Paulo Priya Rosa Sami Sara Tariq Tessa Uma Viktor Yara Zoe",
        "Adler Bauer Costa Dubois Evans Fischer Garcia Haddad Ito Jensen Kaya Lopez Mbeki Novak Okafor Petrov Quinn"
        " Rossi Silva Tanaka Umar Vargas Weber Xu Yilmaz Zhang Moreau Lindberg Castro Nguyen Keller Santos",
    )
)

ADJECTIVES: dict[str, tuple[str, ...]] = {
    language: tuple(words.split())
    for language, words in (
        (
            "en",
            "quiet bold new forgotten brilliant honest strange simple"
            " late local rare patient golden hidden steady wild",
        ),
        ("de", "neue stille seltene große alte kluge kleine wilde späte schöne"),
        ("fr", "rare nouveau discret brillant étrange ancien fragile superbe tardif simple"),
        ("es", "raro nuevo antiguo brillante extraño sencillo tardío enorme discreto firme"),
    )
}

PATTERNS: dict[str, tuple[str, ...]] = {
    "en": (
        "{name} on the {adjective} {noun}: what the {other} really needs",
        "Why every {noun} should have a {adjective} {other}, says {name}",
        "{name} tried a {adjective} {noun} for {number} days and kept the {other}",
        "The {adjective} {noun} is back, and {name} explains the {other}",
        "{number} things {name} learned about the {noun} and one {adjective} {other}",
        "A {adjective} story of a {noun}, told by {name}, with a surprising {other}",
        "How {name} fixed the {noun} with nothing but a {adjective} {other} in {number} minutes",
    ),
    "de": (
        "{name} über das Thema {noun}: warum {adjective} Wege zum Ziel führen, auch beim {other}",
        "Was {name} nach {number} Tagen mit {noun} und {other} gelernt hat",
        "{number} Fragen an {name}: {noun}, {other} und andere {adjective} Dinge",
        "Der Streit um {noun} und {other} geht weiter, sagt {name} nach {number} Jahren",
    ),
    "fr": (
        "{name} raconte le {noun} autrement : un regard {adjective} sur {other} en {number} points",
        "Pourquoi {noun} et {other} changent tout, selon {name}, après {number} jours",
        "{number} questions à {name} : {noun}, {other} et un détail {adjective}",
        "Le retour du {noun} : {name} explique {other} en {number} minutes",
    ),
    "es": (
        "{name} cuenta su {noun} más {adjective} y el secreto del {other} en {number} pasos",
        "Por qué el {noun} y el {other} importan, según {name}, después de {number} días",
        "{number} preguntas a {name}: {noun}, {other} y un detalle {adjective}",
        "Vuelve el {noun}: {name} explica el {other} en {number} minutos",
    ),
}

SALES_TALK: dict[str, tuple[str, ...]] = {
    "en": ("Only today {number}% off, click the link!", "Earn {number}00 a week from home!", "FREE gift for you:"),
    "de": ("Nur heute {number}% Rabatt, jetzt klicken!", "GRATIS für dich:", "Verdiene {number}00 die Woche!"),
    "fr": ("Seulement aujourd'hui -{number}%, cliquez vite !", "Cadeau GRATUIT :", "Gagnez {number}00 par semaine !"),
    "es": ("¡Solo hoy {number}% menos, haz clic ya!", "Regalo GRATIS:", "¡Gana {number}00 por semana!"),
}
"""Opening phrases of spam, by language."""

RUMOURS: dict[str, tuple[str, ...]] = {
    "en": ("They are hiding the truth, hunt them down:", "Miracle cure the doctors forbid:"),
    "de": ("Die Wahrheit wird verschwiegen, jagt sie fort:", "Wundermittel, das Ärzte verbieten:"),
    "fr": ("On nous cache la vérité, chassez-les :", "Remède miracle interdit :"),
    "es": ("Nos ocultan la verdad, échenlos:", "Cura milagrosa prohibida:"),
}
"""Opening phrases of posts that break the rules, by language."""
