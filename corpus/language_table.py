"""The 338 languages and the formats beside them: by what names, interpreters and modelines each is known.

A line is `name | extensions | file names | interpreters | modeline names` (continued lines are indented, empty columns at the
end are left out). Extensions and names are matched as written first, then without regard to case. Where several languages
share one, the content decides among them; `*` marks the one taken when it does not (corpus/language_content.py).

The names are DeepSeek-Coder-V2's list of 338, then formats that the rules of other stages need or that share an extension
with one of the 338. Three of the 338 are other names of a fourth and are never given: see languages.SYNONYMS.
"""

from __future__ import annotations

__all__ = ["FORMATS", "LANGUAGES"]

LANGUAGES = """\
ABAP|.abap
AGS Script|.asc .ash|||ags
AMD GPU|.isa
AMPL|.ampl .mod
ANSYS Parametric Design Language|.ans .mac|||apdl
ANTLR|.g4 .g* .g3
APL|.apl .dyalog||apl aplx dyalog
ASP|.asp .aspx .ascx .asax .master|||classic-asp
AWK|.awk .auk .gawk .mawk .nawk||awk gawk mawk nawk original-awk
ActionScript|.as|||actionscript-3 actionscript3 as3
Ada|.adb .ada .ads|||ada95 ada2005
Agda|.agda
Alloy|.als
AmbientTalk|.at
Apache Configuration|.apacheconf .vhost* .conf .htgroups|.htaccess apache2.conf httpd.conf sites.conf||aconf apache
  apacheconf
AppleScript|.applescript .scpt||osascript|apples osascript
Arc|.arc
Arduino|.ino .pde
AspectJ|.aj
Assembly|.asm* .a51 .i .inc .s .S .hla .mips|||asm
Asymptote|.asy||asy
Augeas|.aug
AutoHotkey|.ahk .ah1 .ah2 .ahkl|||ahk
AutoIt|.au3|||au3 autoit3 autoitscript
BC|.bc||bc
BNF|.bnf
BST|.bst|||bibtex-style
Berry|.be|||be
BitBake|.bb* .bbappend .bbclass .inc
BlitzBasic|.bb .decls|||b3d blitz3d blitzplus bplus
BlitzMax|.bmx|||bmax
Bluespec|.bsv|||bluespec-bsv bsv
Boo|.boo||booi
Boogie|.bpl||boogie
Brainfuck|.b .bf
BrightScript|.brs
C|.c .cats .h* .h.in .idc .inc||tcc
C#|.cs* .cake* .cs.pp .csx .linq||dotnet-script|csharp cake cakescript cs
C++|.cpp .c++ .cc .cp .cppm .cxx .h .h++ .hh .hpp .hxx .inl .ipp .ixx .tcc .tpp .txx .inc* .C|||cpp cxx hpp
C2HS Haskell|.chs|||c2hs
CADL|.cadl
CMake|.cmake .cmake.in|CMakeLists.txt
COBOL|.cob* .cbl* .ccp .cobol .cpy*
COBOLFree|.cbl .cob .cpy
CSS|.css
CUDA|.cu .cuh
CapDL|.cdl
Ceylon|.ceylon
Chapel|.chpl|||chpl
ChucK|.ck
Cirru|.cirru
Click|.click
Clojure|.clj .bb .boot .cl2 .cljc .cljs .cljs.hl .cljscm .cljx .hic .edn|riemann.config|bb clojure lein
CoffeeScript|.coffee ._coffee .cake .cjsx .coffee.erb .iced|Cakefile|coffee|coffee coffee-script
ColdFusion CFC|.cfc|||cfc
Common Lisp|.lisp .asd .cl .l .lsp .ny .podsl .sexp||lisp sbcl ccl clisp ecl|lisp
Crystal|.cr||crystal
Csound|.orc .udo|||csound-orc
Csound Score|.sco|||csound-sco
Cypher|.cyp .cypher
Cython|.pyx .pxd .pxi||cython|pyrex
DASM16|.dasm16 .dasm
DM|.dm|||byond
Darcs Patch|.darcspatch .dpatch|||dpatch
Dart|.dart||dart
Debian Control File||control||debcontrol
DeviceTree|.dts .dtsi
Diff|.diff .patch|||udiff
Dockerfile|.dockerfile .containerfile .docker|Containerfile Dockerfile||docker containerfile
Dylan|.dylan .dyl .intr .lid
EBNF|.ebnf
ELPi|.elpi
Eiffel|.e
Elixir|.ex .exs|mix.lock|elixir
Elm|.elm
Emacs Lisp|.el .emacs|.abbrev_defs .emacs .gnus .spacemacs .viper Cask Eask Project.ede _emacs
  abbrev_defs|emacs|cask eask elisp emacs lisp-interaction
EmberScript|.em .emberscript
Erlang|.erl .app .app.src .es .escript .hrl .xrl .yrl|Emakefile rebar.config rebar.config.lock rebar.lock|escript
Execline|.exec||execlineb
F#|.fs* .fsi .fsx||fsharpi|fsharp
F*|.fst .fsti|||fstar
Factor|.factor|.factor-boot-rc .factor-rc
Fancy|.fy .fancypack|Fakefile
Fantom|.fan
Felix|.flx .flxh
Fennel|.fnl||fennel
Fish|.fish||fish
Flux|.fx .flux
Fortran|.f .f77 .for .fpp .f90 .f95 .f03 .f08 .f18 .fypp|||f90
Fortran Fixed Form|.f* .for* .f77* .ftn|||fortran-fixed
FoxPro|.prg
FreeFem|.edp
FreeMarker|.ftl .ftlh|||ftl
Futhark|.fut
G-Code|.g .cnc .gco .gcode
GAP|.g .gap .gd .gi .tst*
GAS|.s* .ms .S*|||gnu-asm unix-asm unix-assembly
GDScript|.gd*
GLSL|.glsl .fp .frag .frg .fs .fsh .fshader .geo .geom .glslf .glslv .gs .gshader .rchit .rmiss .shader .tesc .tese
  .vert .vrx .vs .vsh .vshader
GSQL|.gsql
Genshi|.kid|||xml+genshi xml+kid
Gentoo Ebuild|.ebuild
Gentoo Eclass|.eclass
Gettext Catalog|.po .pot|||pot po
Glyph|.glf
Gnuplot|.gp .gnu .gnuplot .p .plot .plt||gnuplot
Go|.go|||golang
Gosu|.gs .gst* .gsx .vark .gsp
Grace|.grace
Gradle|.gradle
Grammatical Framework|.gf|||gf
GraphQL|.graphql .gql .graphqls
Graphviz DOT|.dot .gv|||graphviz-(dot)
Groff|.roff .1 .1in* .1m* .1x* .2 .3 .3in* .3m* .3p* .3pm* .3qt* .3x* .4 .5 .6 .7 .8 .9 .man .mdoc .ms* .nr .rno
  .tmac .l .n .me .mom|eqnrc mmn mmt troffrc troffrc-end||man manpage man-page mdoc nroff troff roff
Groovy|.groovy .grt .gtpl .gvy|Jenkinsfile|groovy
Groovy Server Pages|.gsp*|||gsp java-server-page
HCL|.hcl .nomad .tf .tfvars .tofu .workflow*|||hashicorp-configuration-language opentofu terraform
HLSL|.hlsl .cginc .fx* .fxh .hlsli
HTML|.html .hta .htm .html.hl .xht .xhtml .inc|||xhtml
HTML Django|.jinja .j2 .jinja2 .djhtml .html.j2 .html.jinja .nunjucks .njk .html+django|||django html+django
  html+jinja htmldjango jinja
HTML ERB|.erb .erb.deface|||erb eruby html+erb html+ruby
HTML PHP|.phtml|||html+php
HTTP|.http
Handlebars|.handlebars .hbs|||hbs htmlbars
Haskell|.hs .hs-boot .hsc .lhs||runghc runhaskell runhugs stack
Haxe|.hx .hxsl
Hy|.hy||hy|hylang
IGOR Pro|.ipf|||igor igorpro
Idris|.idr .lidr
Inform 6 Template|.i6t
Inno Setup|.iss .isl
Io|.io||io
Isabelle|.thy
J|.ijs||jconsole
JAGS|.jag .jags .bug
JCL|.jcl
JFlex|.flex .jflex
JSON|.json .4DForm .4DProject .avsc .geojson .gltf .har .JSON-tmLanguage .json.example .jsonl .mcmeta .sarif
  .slnlaunch .tfstate .tfstate.backup .topojson .webapp .webmanifest .yy .yyp .ndjson .jsonc .json5 .jsonld
  .code-workspace .babelrc .jshintrc .eslintrc .prettierrc .swcrc .jscsrc|.all-contributorsrc .arcconfig
  .auto-changelog .c8rc .htmlhintrc .imgbotconfig .nycrc .releaserc .secrets.baseline .tern-config .tern-project
  .watchmanconfig MODULE.bazel.lock Package.resolved Pipfile.lock bun.lock composer.lock deno.lock flake.lock
  mcmod.info tsconfig.json||geojson jsonl sarif topojson
JSONiq|.jq
JSX|.jsx
Jasmin|.j
Java|.java .jav .jsh
Java Server Pages|.jsp .tag|||jsp
JavaScript|.js ._js .bones .cjs .es* .es6 .jake .javascript .jsb .jscad .jsfl .jslib .jsm .jspre .jss .mjs .njs .pac
  .sjs .ssjs .xsjs .xsjslib .gs*|Jakefile|bun chakra d8 gjs js node nodejs qjs rhino v8 v8-shell|js node js2
JavaScript MozPreproc|.js.in .jsm.in
Julia|.jl||julia
Jupyter Notebook|.ipynb|||ipython-notebook
K|.k
KRL|.krl
Kconfig|.kconfig|Kconfig Config.in
Koka|.kk||koka
Kotlin|.kt .ktm .kts||kotlin kotlinc
LFE|.lfe
LLVM|.ll
LSL|.lsl .lslp||lsl
Lean|.lean .hlean
Less|.less|||less-css
Lex|.l* .lex|Lexer.x lexer.x||flex
Lighttpd Configuration File|.conf|lighttpd.conf
LilyPond|.ly .ily
Limbo|.b* .m
Linker Script|.ld .lds .x|ld.script||ld
Liquid|.liquid
Literate Agda|.lagda
Literate CoffeeScript|.litcoffee .coffee.md|||litcoffee
Logtalk|.lgt .logtalk
Lua|.lua .fcgi .nse .p8 .pd_lua .rbxs .rockspec .wlua|.luacheckrc|lua luajit
M4|.m4 .mc*|||autoconf
MATLAB|.matlab .m
MQL|.mq4 .mqh .mq5|||mql4 mql5
MUF|.muf .m
Makefile|.mak .make .makefile .mk .mkfile .d .am|BSDmakefile GNUmakefile Kbuild Makefile Makefile.am Makefile.boot
  Makefile.frag Makefile.in Makefile.inc Makefile.pc Makefile.wat makefile makefile.sco mkfile|make gmake|bsdmake
  make mf gnumakefile makefile-gmake automake
Mako|.mako .mao
Mason|.mhtml .mas .mc|autohandler dhandler
Maxima|.mac* .max .wxm||maxima
Meson||meson.build meson_options.txt meson.options
Metal|.metal
MiniScript|.ms
Mirah|.druby .duby .mirah
Mizar|.miz
Modelica|.mo
Modula-2|.mod* .def .mi|||modula2
Monkey|.monkey .monkey2
MooCode|.moo
MoonScript|.moon||moon
Mosel|.mos
MuPAD|.mu
NASM|.asm .nas .nasm
NCL|.ncl*
NSIS|.nsi .nsh
NetLinx|.axs .axi
Nginx Configuration File|.nginx .nginxconf .vhost .conf|nginx.conf||nginx
Nimrod|.nim .nim.cfg .nimble .nimrod .nims|nim.cfg||nim
Ninja|.ninja
Nit|.nit
Nix|.nix|||nixos
Nu|.nu|Nukefile|nush|nush
NuSMV|.smv
OCaml|.ml* .eliom .eliomi .ml4 .mli .mll .mly||ocaml ocamlrun ocamlscript|tuareg caml
OMG Interface Definition Language|.idl* .pidl|||omg-idl
Objdump|.objdump
Objective-C|.m* .h|||obj-c objc objectivec
Objective-C++|.mm*|||obj-c++ objc++ objectivec++ objcpp
Octave|.m||octave
Odin|.odin|||odinlang odin-lang
Opa|.opa
OpenCL|.cl* .opencl
OpenEdge ABL|.p* .cls .w|||progress openedge abl
OpenSCAD|.scad
Ox|.ox .oxh .oxo
Oz|.oz
PAWN|.pwn .inc .sma .p
PEG|.peg .pegjs .peggy
PHP|.php .aw .ctp .fcgi .inc .php3 .php4 .php5 .phps .phpt|.php .php_cs .php_cs.dist Phakefile|php php5 php7
  php8|inc
POD|.pod .pod6
POV-Ray|.pov .inc|||povray pov-ray-sdl pov
Papyrus|.psc
Parrot Internal Representation|.pir||parrot|pir
Pascal|.pas .dfm .dpr .inc .lpr .pascal .pp .dpk .delphi||instantfpc|delphi objectpascal
Perl|.pl* .cgi* .fcgi* .perl .ph .plx .pm* .psgi .t*|.latexmkrc Makefile.PL Rexfile cpanfile latexmkrc|cperl
  perl|cperl
Perl 6|.6pl .6pm .nqp .p6 .p6l .p6m .pl .pl6 .pm .pm6 .raku .rakumod .t .rakutest .t6||perl6 raku rakudo|perl6 raku
Pike|.pike .pmod||pike
PkgConfig|.pc .pc.in|||pkgconf pkg-config
Pony|.pony
PowerShell|.ps1 .psd1 .psm1||pwsh powershell|posh pwsh
Praat|.praat||praat
Processing|.pde*
Propeller Spin|.spin
Protocol Buffer|.proto|||proto protobuf protocol-buffers
Pug|.jade .pug|||jade
Puppet|.pp*|Modulefile
PureBasic|.pb .pbi
PureScript|.purs
Python|.py .cgi .fcgi .gyp .gypi .lmi .py3 .pyde .pyi .pyp .pyt .pyw .rpy .spec .tac .wsgi .xpy .pythonrc|.gclient
  DEPS SConscript SConstruct wscript|python python2 python3 py pypy pypy3 uv pypy2 ipython|py py3 python3 rusthon
Q|.q*
QML|.qml .qbs
QVTO|.qvto
R|.r .rhistory .rsx .R|.Rapp.history .Rhistory .Rprofile expr-dist|Rscript littler r|rscript splus ess-r
RAML|.raml
RConsole|.Rout
REALbasic|.rbbas .rbfrm .rbmnu .rbres .rbtbar .rbuistate .xojo_code .xojo_window .xojo_menu
REXX|.rexx .pprx .rex||regina rexx|arexx
RHTML|.rhtml
Racket|.rkt .rktd .rktl .scrbl||racket
Ragel in Ruby Host|.rl|||ragel-rb ragel-ruby ragel
Rd|.Rd
ReasonML|.re .rei|||reason
Red|.red .reds|||red-system
Ren'Py|.rpy*|||renpy
RenderScript|.rs .rsh
Ride|.ride
Robot Framework|.robot .resource|||robotframework
Rouge|.rg
Ruby|.rb .builder .eye .fcgi .gemspec .god .jbuilder .mspec .pluginspec* .podspec .prawn .rabl .rake .rbi .rbuild
  .rbw .rbx .ru .ruby .spec .thor .watchr .pryrc|.irbrc .pryrc .simplecov Appraisals Berksfile Brewfile Buildfile
  Capfile Dangerfile Deliverfile Fastfile Gemfile Guardfile Jarfile Mavenfile Podfile Puppetfile Rakefile Snapfile
  Steepfile Thorfile Vagrantfile buildfile|ruby macruby rake jruby rbx|jruby macruby rake rb rbx
Rust|.rs* .rs.in||rust-script|rs rustic
S|.ssc .q
SARL|.sarl
SAS|.sas
SCSS|.scss
SMT|.smt2 .smt .z3||boolector cvc4 mathsat5 opensmt smtinterpol smt-rat stp verit yices2 z3
SPARQL|.sparql .rq
SQF|.sqf .hqf
SQL|.sql* .ddl .mysql .prc .tab .udf .viw .pgsql .plsql .psql .inc .pls .pks .pkb|||plsql mysql
SWIG|.i* .swg .swig
Sage|.sage .sagews||sage
Sass|.sass
Scala|.scala .kojo .sbt .sc*||scala
Scheme|.scm .sch* .sld .sls* .sps .ss||scheme guile bigloo chicken csi gosh r6rs
Scilab|.sci .sce .tst||scilab
Self|.self
ShExC|.shex
Shell|.sh .bash .bats .cgi .command .fcgi .ksh .pacscript .sbatch .sh.in .slurm .tmux .zsh .zsh-theme .envrc .bashrc
  .zshrc .dash|.bash_aliases .bash_functions .bash_history .bash_logout .bash_profile .bashrc .cshrc .envrc
  .flaskenv .kshrc .profile .tmux.conf .xinitrc .xsession .zlogin .zlogout .zprofile .zshenv .zshrc 9fs PKGBUILD
  bash_aliases bash_logout bash_profile bashrc cshrc gradlew kshrc mvnw tmux.conf xinitrc xsession zlogin zlogout
  zprofile zshenv zshrc|ash bash dash ksh mksh pdksh rc sh zsh bats|sh shell-script bash zsh envrc ksh
Sieve|.sieve
Silver|.sil .vpr
Singularity|.singularity .def|Singularity
Slim|.slim
Smali|.smali
Smarty|.tpl
Smithy|.smithy
Solidity|.sol
SourcePawn|.sp .inc|||sourcemod
Squirrel|.nut
Stan|.stan
Standard ML|.ml .fun .sig .sml|||sml
Stata|.do .ado .doh .ihlp .mata .matah .sthlp||stata
Stylus|.styl
SuperCollider|.sc .scd||sclang scsynth
Swift|.swift||swift
SystemVerilog|.sv .svh .vh
Tcl|.tcl .adp .sdc .tcl.in .tm .xdc .tclsh .exp|owh starfield|tclsh wish expect|sdc xdc
Tcsh|.tcsh .csh||tcsh csh|csh
TeX|.tex .aux .bbx .cbx .cls* .dtx .ins .lbx .ltx .mkii .mkiv .mkvi .sty .toc|||latex plaintex context
Tea|.tea
Terminfo|.terminfo|terminfo terminfo.src
Thrift|.thrift
Transact-SQL|.sql .tsql|||tsql t-sql
Treetop|.treetop .tt
Turing|.t .tu
Twig|.twig
TypeScript|.ts* .cts .mts .tsx*||deno ts-node tsx|ts typescriptreact
TypoScript|.typoscript .tsconfig .ts
USD|.usda .usd
Unity3D Asset|.anim .asset .mask .mat .meta .prefab .unity
Uno|.uno
UnrealScript|.uc
UrWeb|.ur .urs|||ur-web ur
VBScript|.vbs
VCL|.vcl
VHDL|.vhdl .vhd .vhf .vhi .vho .vhs .vht .vhw
Vala|.vala .vapi
Velocity|.vtl .vm*|||vtl velocity-template-language
Verilog|.v* .veo
VimL|.vim .vba .vimrc .vmb|.exrc .gvimrc .nvimrc .vimrc _vimrc gvimrc nvimrc vimrc|vim|vim nvim vimscript vim-script
Visual Basic|.vb .vbhtml .bas .cls .frm .dsr .ctl .vba*|||vbnet vb-.net vb.net visual-basic-.net vb basic vb6
Vue|.vue
Web IDL|.webidl .idl|||webidl
WebAssembly|.wast .wat|||wast wasm
Whiley|.whiley
X10|.x10|||xten
XBase|.prg* .ch .prw .dbf|||clipper advpl harbour
XC|.xc
XML|.xml* .adml .admx .ant .axaml .axml .builds .ccproj .ccxml .clixml .cproject .cscfg .csdef .csl .csproj .depproj
  .dita .ditamap .ditaval .dll.config .dotsettings .filters .fsproj .fxml .glade .gmx .gpx .grxml .gst .hzp .icls
  .iml .ivy .jelly .jsproj .kml .mdpolicy .meta4 .mjml .mm .mxml .natvis .ncl .ndproj .nproj .nuspec .osm .pkgproj
  .pluginspec .proj .props .ps1xml .psc1 .pubxml .qhelp .rbxmx .rdf .resx .rss .sch .scxml .sfproj .shproj .slnx
  .srdf .storyboard .sublime-snippet .targets .ts .ui .urdf .vbproj .vcxproj .vsixmanifest .vssettings .vstemplate
  .vxml .wixproj .workflow .wsdl .wsf .wxi .wxl .wxs .x3d .xacro .xaml .xib .xlf .xliff .xmi .xml.dist .xmp .xproj
  .xsd .xspec .xul .zcml .plist .vm .tsx .rs .mod .res .typ .mojo .gml .pt .launch|.classpath .cproject .project
  App.config NuGet.config Settings.StyleCop Web.Debug.config Web.Release.config Web.config packages.config||rss xsd
  wsdl nxml sgml
XML Lasso|.lassoxml .xml
XQuery|.xquery .xq .xql .xqm .xqy
XS|.xs
XSLT|.xslt .xsl|||xsl
Xtend|.xtend
Xtlang|.xtm
YANG|.yang
Zeek|.zeek .bro|||bro
Zephir|.zep
Zig|.zig .zig.zon
Zimpl|.zimpl .zmpl .zpl
eC|.ec .eh
ooc|.ooc
"""

FORMATS = """\
Markdown|.md .markdown .mdown .mkd .mkdn .mdx .livemd .ronn|README.md||gfm pandoc
YAML|.yaml .yml .sls .syntax .yaml-tmlanguage .clang-format .clang-tidy .gemrc .clangd|CITATION.cff pixi.lock
reStructuredText|.rst .rest .rst.txt|||rst
Text|.txt .text .1* .2* .3* .4* .5* .6* .7* .8* .9* .1in .1m .1x .3in .3m .3p .3pm .3qt .3x .n* .me* .l|LICENSE
  LICENCE COPYING COPYRIGHT NOTICE AUTHORS CONTRIBUTORS README INSTALL NEWS TODO CHANGES ChangeLog CHANGELOG THANKS
  HISTORY COPYING.LIB LICENSE-MIT LICENSE-APACHE PATENTS UNLICENSE VERSION MAINTAINERS CREDITS FAQ BUGS HACKING
TOML|.toml|Cargo.lock poetry.lock uv.lock Pipfile Gopkg.lock pdm.lock
INI|.ini .cfg .conf* .prefs .cnf .inf .lektorproject .editorconfig .gitconfig .gitmodules .npmrc .pylintrc
  .coveragerc .flake8 .desktop .service .socket .timer .target|||dosini conf conf-unix
CSV|.csv
TSV|.tsv
SVG|.svg
Batchfile|.bat .cmd|||dosbatch bat
Prolog|.pl .pro .prolog .yap||swipl yap gprolog
Yacc|.y .yacc .ypp .yy*|||bison
Java Properties|.properties|||jproperties
Smalltalk|.st .cs .sts||gst|st
Mathematica|.nb .wl .wls .m .mt .wlt .nbp .ma||wolframscript|mma
Maple|.mpl .mpt
RMarkdown|.rmd .Rmd .qmd
Coq|.v .coq||coqtop
D|.d* .di||rdmd
V|.v||v
Forth|.fth .4th .forth .frt .f .fs||gforth
IDL|.pro*||gdl|idlang
QMake|.pro .pri||qmake
Apex|.cls .apex .trigger
RPM Spec|.spec*|||spec
Starlark|.bzl .star|BUILD.bazel WORKSPACE WORKSPACE.bazel BUILD BUCK||bzl bazel
BibTeX|.bib|||bib
Org|.org
AsciiDoc|.adoc .asciidoc .asc*
Textile|.textile
RDoc|.rdoc
MediaWiki|.mediawiki .wiki
Svelte|.svelte
Haml|.haml
ShaderLab|.shader*
PostScript|.ps .eps|||postscr
Elixir Template|.eex .heex .leex
EJS|.ejs
Mustache|.mustache
Razor|.cshtml .razor
Windows Module Definition|.def
Sed|.sed||sed gsed
Ignore List|.gitignore .dockerignore .npmignore .eslintignore .prettierignore .hgignore .gcloudignore .helmignore
Git Attributes|.gitattributes
Vim Help||||help
Go Module||go.mod go.sum go.work go.work.sum
Gleam|.gleam
WGSL|.wgsl
DTD|.dtd
unknown|.tt* .def* .res* .typ* .mojo* .gml* .pt* .launch* .mask* .meta* .asset* .mat*|control*
"""
