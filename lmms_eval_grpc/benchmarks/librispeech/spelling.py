"""British spellings and the American ones that Whisper's text normalisation puts in their place.

The word pairs are those of the Whisper project's table (openai/whisper, MIT licence, after tysto.com's list), oddities
included, because published word error rates depend on them; only its one stray HTML tag and its key of two words are
left out, which change no score. They are kept as families: ``s z e,ed,ing: agoni`` stands for agonise, agonised and
agonising with a z instead of the s; ``-`` is the empty text.
"""

_FAMILIES = """
    - e red: cent louv;
    - e -: battleax;
    - e red,ring: reconnoit;
    - l -,s: appal distil enrol enthral instil;
    - l ation,ations: cancel;
    - l ated: crenel;
    - l -,ment,s: fulfil;
    - l -,ment,ments,s: instal;
    - u ge,ged,ges,ging: ga;
    - u r: glamo;
    a - emia: leuk tox;
    a - eval: medi prim;
    a - emia,emic,esthesia,esthetic,esthetics,esthetist,esthetists,esthetize,esthetized,esthetizes,esthetizing: an;
    a - eologically,eologist,eologists,eology: arch;
    a - ea,eas: bougainvill;
    a - esarean,esareans: c;
    a - era,eras: chim;
    a - edia,edias,edic: encyclop;
    a - ecal,eces: f;
    a - utist,utists: fl;
    a - ecological,ecologist,ecologists,ecology: gyn;
    a -
      ematological,ematologist,ematologists,ematology,emoglobin,emophilia,emophiliac,emophiliacs,emorrhage,emorrhaged,emorrhages,emorrhaging,emorrhoids:
      h;
    a - edic,edics: orthop;
    a - ederast,ederasts,ediatric,ediatrician,ediatricians,ediatrics,edophile,edophiles,edophilia: p;
    a - eolithic,eontologist,eontologists,eontology: pal;
    a - esidium,esidiums: pr;
    aesthetis esthetiz e,ed,es,ing: an;
    c k -,s: dis videodis;
    c k eptic,eptical,eptically,epticism,eptics: s;
    c s e,es: offen preten;
    c s e,eless,es: defen;
    c s e,ed,es,ing: licen;
    e - ing: ag bing glu;
    e - y: phon stor;
    e - -: ax;
    e - ment: judg;
    e - able: lik;
    e a y,yed,ying,yish,yness,ys: gr;
    l - ed,ing: backpedal bedevil cancel carol cavil channel chisel cudgel dial disembowel drivel duel enamel funnel
      gambol grovel impanel imperil initial label marshal parcel pedal pencil quarrel ravel refuel remodel rival
      shovel shrivel signal snivel snorkel spiral squirrel stencil swivel towel trial tunnel unravel weasel yodel;
    l - ed: bejewel bevel dishevel gravel tassel unequal unrival untrammel;
    l - ed,er,ers,ing: level model revel travel;
    l - iper,ipers,isthenics: cal;
    l - i: chil;
    l - or,ors: council;
    l - ed,ing,or,ors: counsel;
    l - er,est: cruel;
    l - et,eted,eting,ets: fil;
    l - ing,ingly: gruel;
    l - ed,er,ers: jewel;
    l - ed,ing,ous: libel;
    l - ed,ing,ous,ously: marvel;
    l - ed,ing,ist,ists: panel;
    l - ity,ize,ized,izer,izers,izes,izing: tranquil;
    l - en,ens,ies,y: wool;
    lis iz e,ed,er,ers,es,ing: tranquil;
    me - -,s: aerogram centigram gram kilogram milligram program;
    o - ea: diarrh gonorrh;
    o - ema: ed;
    o - etal,etid,etus,etuses: f;
    o - eopath,eopathic,eopaths,eopathy: hom;
    o - ustache,ustached,ustaches,ustachioed: m;
    o - eia,eias: pharmacop;
    oeuv euve rability,rable,red,ring,rings: man;
    oeuv euve red,ring: outman;
    oeuvre euver -,s: man outman;
    ph f ate,ates,ide,ides,ur,urous: sul;
    que ck -,book,books,s: che;
    re er -,s: amphitheat calib centilit centimet epicent goit kilomet lit louv met micromet millilit millimet mit
      reconnoit sab scept sepulch spect;
    re er -: lacklust lust meag saltpet somb;
    re er ments: accout;
    re er -,fold,folds,piece,pieces,s: cent;
    re er -,glass,s: fib;
    re er -,goer,goers,s: theat;
    s - es: gas minibus;
    s - ed,ing: bias;
    s - es,ing: bus;
    s c e,ed,es,ing: practi;
    s z e,ed,es,ing: accessori analy anglici antagoni apologi authori bapti bastardi bowdleri brutali canali cannibali
      canoni capitali carameli carboni cataly categori cauteri centrali characteri circulari civili collectivi
      commerciali compartmentali computeri conceptuali contextuali criminali critici customi demoni deodori
      depersonali deputi digiti economi editoriali empathi emphasi energi epitomi eulogi evangeli exorci factori
      fantasi femini galvani ghettoi glamori homogeni humani hybridi hypnoti hypothesi idoli immortali individuali
      industriali initiali intellectuali italici itemi jeopardi legitimi locali magneti memoriali memori mesmeri
      metaboli militari minimi moderni morali optimi ostraci overemphasi paraly particulari penali personali
      philosophi plagiari propagandi psychoanaly publici radicali randomi revitali revolutioni rhapsodi romantici
      saniti satiri scandali scrutini sensationali sensiti sentimentali sermoni signali sodomi solemni summari symboli
      tempori tenderi terrori theori traumati triviali tyranni vandali verbali;
    s z ation,e,ed,es,ing: acclimati crystalli decentrali decriminali dehumani demilitari demobili democrati demorali
      denationali desensiti destabili extempori familiari finali formali fossili fraterni globali harmoni hospitali
      ideali immuni institutionali internali internationali legali liberali lioni marginali materiali maximi mechani
      miniaturi mobili monopoli naturali neutrali normali oxidi passivi pasteuri pedestriani polari politici populari
      pressuri prioriti professionali pulveri regulari seculari sociali standardi stigmati synchroni systemati unioni
      urbani vapori victimi vulgari westerni;
    s z ation,ations,e,ed,es,ing: dramati externali fictionali generali nationali privati rationali reorgani seriali
      speciali visuali vocali;
    s z ed: annuali motori rituali transistori unauthori uncivili underutili unorgani vulcani;
    s z e,ed,er,ers,es,ing: breathaly liquidi moisturi proselyti sympathi synthesi womani;
    s z ation,e,ed,er,ers,es,ing: coloni equali fertili immobili ioni stabili subsidi;
    s z e,ed,es,ing,ingly: agoni patroni tantali;
    s z able,ation,ations,e,ed,es,ing: amorti reali;
    s z ement: aggrandi;
    s z er,ers,ing,ingly: appeti;
    s z ier,ies,iest,ily,iness,y: co;
    s z ation,ed: disorgani;
    s z ation,ational,ations,e,ed,er,ers,es,ing: organi;
    s z able,ably,ance,e,ed,es,ing: recogni;
    s z ation,ations,e,ed,er,ers,es,ing: sterili;
    s z able,ed: unrecogni;
    s z able,ation,e,ed,es,ing: utili;
    te - -,s: epaulet omelet;
    u - r: ardo cando clango demeano disfavo fervo misbehavio ranco technicolo valo vigo;
    u - r,rs: arbo misdemeano parlo rigo savio splendo tricolo tumo vapo watercolo;
    u - r,red,ring,rs: belabo clamo discolo endeavo harbo succo;
    u - r,rable,rably,red,ring,rs: dishono hono;
    u - red: enamo multicolo;
    u - r,red,rer,rers,ries,ry: armo;
    u - lk,lked,lking,lks: ba;
    u - r,ral,rism,rist,rists,rs: behavio;
    u - ed,ing: catalog;
    u - r,rant,rants,red,reds,rful,rfully,ring,rize,rized,rizes,rizing,rless,rs: colo;
    u - r,rable,rably,red,ring,rite,rites,ritism,rs: favo;
    u - r,red,ring,rings,rless,rs,rsome: flavo;
    u - r,red,ring,rless,rs: humo;
    u - r,red,rer,rers,ring,rs: labo;
    u - ld,lded,lder,ldered,ldering,lders,ldier,ldiest,lding,ldings,lds,ldy,lt,lted,lting,lts: mo;
    u - r,rhood,rhoods,ring,rliness,rly,rs: neighbo;
    u - r,rless,rs: odo;
    u - ld,lded,lding,lds: remo;
    u - r,red,rs: rumo;
    u - r,red,ries,ring,rs,ry: savo;
    u - lder,ldered,ldering,lders: smo;
    u - rable,rably: unfavo;
    u - ry: unsavo;
    ue - -,s: analog catalog dialog epilog monolog prolog;
    ugh f t,tboard,tboards,tier,tiest,ts,tsman,tsmanship,tsmen,tswoman,tswomen,ty: dra;
    ugh w -,ed,ing,man,men,s,share,shares: plo;
    ugh w -: snowplo;
    x ct ion,ions: conne infle;
    y i pher,phers: c;
    y i phon,phoned,phoning,phons: s;
    y i re,res: t;
"""

_PAIRS = """
    aeon=eon aeons=eons aeroplane=airplane aeroplanes=airplanes aesthete=esthete aesthetes=esthetes aesthetic=esthetic
    aesthetically=esthetically aesthetics=esthetics aetiology=etiology almanack=almanac almanacks=almanacs
    aluminium=aluminum archeological=archaeological artefact=artifact artefacts=artifacts bannister=banister
    bannisters=banisters behove=behoove behoved=behooved behoves=behooves bevvies=bevies bevvy=bevy
    chequered=checkered clarinettist=clarinetist clarinettists=clarinetists gaol=jail gaolbird=jailbird
    gaolbirds=jailbirds gaolbreak=jailbreak gaolbreaks=jailbreaks gaoled=jailed gaoler=jailer gaolers=jailers
    gaoling=jailing gaols=jails gipsies=gypsies groyne=groin groynes=groins gryphon=griffin gryphons=griffins
    jewellery=jewelry mhm=hmm misspelt=misspelled mmm=hmm oesophagus=esophagus oesophaguses=esophaguses
    oestrogen=estrogen philtre=filter philtres=filters pouffe=pouf pouffes=poufs pummelled=pummel pummelling=pummeled
    pyjama=pajama pyjamas=pajamas pzazz=pizzazz sheikh=sheik snowploughs=snowplow storeys=stories tonne=ton
    tonnes=tons tranquilly=tranquility travelog=travelogue travelogs=travelogues waggon=wagon waggons=wagons
    worshipped=worshiped worshipper=worshiper worshipping=worshiping yoghourt=yogurt yoghourts=yogurts yoghurt=yogurt
    yoghurts=yogurts
"""


def _spellings():
    pairs = dict(pair.split("=") for pair in _PAIRS.split())
    for family in _FAMILIES.strip().removesuffix(";").split(";"):
        rule, stems = family.split(":")
        british, american, endings = (part.replace("-", "") for part in rule.split())
        for stem in stems.split():
            for ending in endings.split(","):
                pairs[stem + british + ending] = stem + american + ending
    return pairs


AMERICAN_SPELLINGS = _spellings()
"""From the British spelling to the American one."""
