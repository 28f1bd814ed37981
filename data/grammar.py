"""A probabilistic grammar of biomedical English, and the sample in data/craft/ that it generates.

    python data/grammar.py                           # writes the committed files again, byte for byte
    python data/grammar.py --out /tmp/more --seed 1  # other sentences of the same language

Real corpora need a download; this sample lets every command run at once. Its sentences mean little, but their structure is
learnable and not trivial, because most of it hangs on words, as in English:

    We (treated (the mutant mice) (with tamoxifen)).         `treat` takes `with`: the phrase belongs to the verb
    We (studied ((mutant mice) (with severe anemia))).       `study` does not: it belongs to the noun
    (((bone marrow) cells)   but   (mutant germ cells)       some compounds begin with a compound of their own

Treebanks split attachments the same way, but never so regularly: scores on this sample say whether the method runs and
where it goes, not how well it parses real articles.
"""

import random
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that `python data/grammar.py` finds the package `data`, from any folder

from data.command import CommandLine, run_command  # noqa: E402
from data.splits import DataError, write_atomically, write_jsonl  # noqa: E402
from data.trees import Tree, unescape, write_penn  # noqa: E402

TASK = """{
  "task": "tree",
  "name": "craft",
  "sample": true,
  "source": "synthetic: data/grammar.py",
  "instruction": "Bracket the constituents of the sentence: put every phrase between brackets, without labels, and keep all words in order."
}
"""
SIZES = {"labeled": 50, "unlabeled": 1000, "valid": 100, "test": 300}
WORDS = range(4, 23)   # shorter and longer sentences are thrown away
BUDGET = 10            # levels of a derivation; where it runs out, only the rules that end soon are left
HELD_OUT_SHARE = 0.05  # of the words in test, where a class has some that are held out for it

# ---------------------------------------------------------------------------------------------------------------------
# The rules: a symbol, an arrow, and the ways to rewrite it, each after its weight.
#
#   NP_measured      a Penn label, then what the grammar needs to know and the tree does not show
#   _clause          no label: its parts join the constituent around it
#   (PP IN/in NP)    a bracket on the spot; IN/in is the word itself, NN_chem a word of that class in the lexicon
#   JJ_cell?         there one time in two
#   #                the rule is written twice, singular (sg) and plural (pl): N# is NN and NNS, V# is VBZ and VBP
#
# A symbol rewritten as one symbol of the same label is a choice and makes no second bracket.

RULES = """
_sentence -> 97 S | 3 (FRAG NP_heading .)
S ->
    54 _clause . |
    18 _clause PRN . |
    4 _opening , _clause . |
    2 SBAR_opening , _clause . |
    2 (S (VP TO/to VP_test)) , NP_we VP_did . |
    2 (S (VP VBG/using NP_method)) , NP_we VP_did . |
    2 S_finding , CC_clause S_finding . |
    2 S_handled CC/and S_handled .
_clause ->
    16 NP_we VP_did |
    4 NP_we (ADVP RB_next) VP_did |
    20 _handled |
    40 _finding |
    3 NP_result_# (VP V#_show SBAR_that) |
    1 NP_result_# (VP V#_support (NP (NP DT/the NN_idea) SBAR_that)) |
    1 (NP PRP/it) (VP VBZ/is (ADJP JJ_likely) SBAR_that)
_handled -> 1 NP_specimen_# (VP _was_# VP_handled)
S_handled -> 1 _handled
S_finding -> 1 _finding
SBAR_that -> 1 IN/that S_finding
SBAR_opening -> 2 (WHADVP WRB/when) (S NP_specimen_# (VP _was_# VP_treated)) | 2 IN_although S_finding |
    1 IN/after (S NP_specimen_# (VP _was_# VP_treated))
_opening -> 4 (ADVP RB_link) | 1 (PP IN/in (NP NN/contrast)) | 1 (PP IN/in (NP NN/addition)) |
    2 (PP IN/at (NP NN_stage)) | 2 (PP IN/after (NP CD_small NNS_time)) | 2 (PP IN/in (NP DT/these NNS_animal)) |
    2 (PP IN/unlike (NP NN_gene))

# What the authors did. The verb decides where a following PP goes: to itself (treat X with Y, find X in Y, obtain X from
# Y) or to its object (measure levels in X, study mice with X).
VP_did ->
    9 VBD_treat NP_material (PP IN/with NP_agent) _daily? |
    4 VBD_treat NP_material (PP IN/with NP_agent) (PP IN/for NP_time) |
    5 VBD_obtain NP_obtained (PP IN/from NP_donor) |
    4 VBD_obtain NP_obtained (PP IN/from NP_donor) (PP IN/at NP_stage) |
    8 VBD_find NP_signal (PP IN/in NP_place) _early? |
    11 VBD_measure NP_measured _daily? |
    5 VBD_measure NP_measure (S (VP VBG/using NP_method)) |
    8 VBD_study (NP NP_living (PP IN/with NP_defect)) _daily? |
    7 VBD_study (NP NP_living (PP IN/from NP_donor)) _daily? |
    4 VBD_study NP_role |
    4 VBD/used NP_method (S (VP TO/to VP_test)) |
    4 VBD/performed NP_method (PP IN/on NP_living) |
    4 VBD/compared NP_living (PP IN/with NP_control) |
    3 VBD_conclude SBAR_that |
    1 (VP VBD_treat NP_material (PP IN/with NP_agent)) CC/and (VP VBD_measure NP_measure) |
    1 (VP VBD_obtain NP_obtained) CC/and (VP VBD_study NP_role)
VP_test -> 2 VB/test (SBAR IN/whether S_finding) | 2 VB_measure NP_measure | 2 VB_measure NP_measured |
    2 VB_study NP_role | 1 VB_find NP_gene (PP IN/in NP_place)
VP_handled -> 6 VP_treated | 3 VBN_obtain (PP IN/from NP_donor) | 4 VBN_obtain (PP IN/from NP_donor) (PP IN/at NP_stage) |
    4 VBN_keep (PP IN/at NP_temperature) (PP IN/for NP_time) | 5 VBN_study (PP IN/by NP_method) _daily? |
    1 VBN/used (S (VP TO/to VP_test)) | 1 VP_treated CC/and (VP VBN_keep (PP IN/at NP_temperature)) |
    2 VBN_treat CC/and VBN_keep (PP IN/for NP_time)
VP_treated -> 8 VBN_treat (PP IN/with NP_agent) _daily? | 3 VBN_treat (PP IN/with NP_agent) (PP IN/for NP_time) |
    2 (ADVP RB_manner) VBN_treat (PP IN/with NP_agent)

# What was found. These clauses also stand inside others, after `that`, `although`, `whether`.
_finding ->
    9 NP_signal_# (VP _was_# VP_found) |
    3 NP_cause_# (VP V#_affect NP_process) |
    7 NP_cause_# (VP V#_affect NP_process (PP IN/in NP_place)) |
    4 NP_cause_# (VP V#_affect NP_process (ADVP FW/in FW_vivo)) |
    3 NP_cause_# (VP (ADVP RB_manner) V#_affect NP_process) |
    4 NP_cause_# (VP V#_lead (PP TO/to NP_defect)) |
    2 NP_cause_# (VP MD_may (VP VB_affect NP_process)) |
    1 NP_cause_# (VP MD_may (VP VB_affect NP_process (PP IN/in NP_place))) |
    2 NP_cause_# (VP (VP V#_affect NP_process) CC/and (VP V#_affect NP_process)) |
    6 NP_mutant_# (VP VBD_exhibit NP_defect _early?) |
    4 NP_mutant_# (VP VBD_exhibit NP_defect (PP IN/at NP_stage)) |
    3 NP_mutant_# (VP VBD/failed (S (VP TO/to (VP VB_survive (PP IN/until NP_stage))))) |
    2 NP_mutant_# (VP VBD_survive (PP IN_period (NP NN_period))) |
    4 NP_mutant_# (VP _was_# (ADJP RB_much? JJR_size (PP IN/than NP_control))) |
    3 NP_mutant_# (VP _was_# (ADJP JJ_state CC/and JJ_state)) |
    8 NP_measure_# (VP _was_# ADJP_compared_#) |
    4 NP_measure_# (VP VBD_change (PP IN/in NP_place) _early?) |
    2 NP_measured (VP VBD_change (PP IN/by (NP CD_percent NN/%))) |
    3 NP_measure_# (VP VBD_change (PP IN/by (NP CD_percent NN/%))) |
    3 NP_topic (VP VBZ/is (ADJP JJ_needed (PP IN/for NP_process))) |
    3 NP_topic (VP VBZ/is (VP VBN/required (PP IN/for NP_process) (PP IN/in NP_place))) |
    1 NP_topic (VP VBZ/binds (PP TO/to NP_gene)) |
    3 NP_topic (VP VBZ/binds (PP TO/to NP_gene) (ADVP FW/in FW_vivo)) |
    3 NP_topic (VP VBZ/acts (ADVP RB_locus (PP IN/of NP_gene)) (S (VP TO/to (VP VB_affect NP_process)))) |
    2 NP_topic (VP VBZ/is (NP (NP DT/a JJ_notable? NN_regulator) (PP IN/of NP_process))) |
    2 (NP EX/there) (VP VBD/was (NP (NP DT/no JJ_notable? NN_difference) (PP IN/in NP_measure) (PP IN/between NP_pair)))
VP_found -> 6 VBN_find (PP IN/in NP_place) _early? | 2 (ADVP RB_manner) VBN_find (PP IN/in NP_place) |
    4 VBN_find (PP IN/in NP_place) (PP IN/at NP_stage) |
    2 VBN_find (PP (PP IN/in NP_place) CC/but RB/not (PP IN/in NP_place)) | 2 VBN_find (PP IN/by NP_method)
ADJP_compared_# -> 3 RB_much? JJR_high (PP IN/in NP_living) (PP IN/than (PP IN/in NP_control)) |
    2 RB_much? JJR_high (PP IN/than (PP IN/in NP_control)) |
    3 JJ_similar (PP TO/to (NP (NP _that_#) (PP IN/in NP_control)))
_daily -> 1 (ADVP RB_daily)
_early -> 1 (ADVP RB_early)
_was_sg -> 1 VBD/was
_was_pl -> 1 VBD/were
_that_sg -> 1 DT/that
_that_pl -> 1 DT/those

# Animals, cells, and what is cut from them. Compounds: ((bone marrow) cells), but (mutant germ cells).
NP_we -> 1 PRP/we
NP_animal_sg -> 3 DT/the JJ_genotype JJ_age? NN_animal | 1 DT/each NN_animal | 1 DT/a JJ_genotype NN_animal
NP_animal_pl -> 5 JJ_genotype NNS_animal | 4 DT/the JJ_genotype? NNS_animal | 3 NN_gene JJ/null NNS_animal |
    1 CD_small JJ_genotype JJ_age NNS_animal | 2 CD_small JJ_genotype? NNS_animal |
    1 (QP RB/at JJS/least CD_small) NNS_animal | 1 JJ_genotype CC/and JJ_genotype NNS_animal
NP_cell_pl -> 5 JJ_cell? NNS_cell | 2 JJ_genotype NN/germ NNS/cells | 2 JJ_cell NN/stem NNS/cells |
    4 (NML _organ) NNS_cell | 3 NN_tissue NNS_cell | 1 (NML NN_tissue CC/and NN_tissue) NNS_cell |
    2 (ADJP NN_gene HYPH/- JJ_signed) NNS_cell
NP_slides_sg -> 2 DT/each NN_tissue NN_sample | 1 DT/the JJ_prepared NN_sample
NP_slides_pl -> 4 NN_tissue NNS_sample | 3 (NML _organ) NNS_sample | 2 JJ_prepared NNS_sample | 1 DT/the NNS_sample
NP_living -> 10 NP_animal_pl | 8 NP_cell_pl | 1 (NP NNS_animal) CC/and (NP NNS_cell)
NP_modified -> 3 NP_animal_pl (VP VBG_lack NP_gene) | 3 NP_animal_pl (SBAR (WHNP WDT/that) (S (VP VBP_lack NP_gene))) |
    2 NP_cell_pl (SBAR (WHNP WDT/that) (S (VP VBP_lack NP_gene))) | 2 NP_cell_pl (VP VBN_obtain (PP IN/from NP_donor))
NP_material -> 6 NP_living | 4 NP_slides_pl | 2 NP_modified
NP_specimen_sg -> 3 NP_animal_sg | 3 NP_slides_sg
NP_specimen_pl -> 4 NP_animal_pl | 5 NP_cell_pl | 5 NP_slides_pl | 2 NP_modified |
    2 (NP CD_small NNS_animal) (PRN -LRB- (S (NP NN/n) (VP SYM/= (NP CD_number))) -RRB-)
NP_mutant_sg -> 1 NP_animal_sg
NP_mutant_pl -> 6 NP_animal_pl | 1 NP_modified | 2 (NP JJ_genotype NNS_animal) (PP IN/at NP_stage) |
    2 (NP DT_most) (PP IN/of (NP DT/the JJ_genotype? NNS_animal))
NP_donor -> 5 NP_animal_pl | 3 DT/the JJ_age NN_tissue | 2 DT/the _organ |
    1 (NP DT/the NN_tissue) (PP IN/of (NP JJ_genotype NNS_animal))
NP_obtained -> 4 NP_cell_pl | 3 NP_slides_pl
NP_control -> 4 JJ_control NNS_animal | 2 PRP$/their JJ_control NNS_animal | 1 NNS/controls
NP_pair -> 2 NP_living CC/and NP_control | 2 JJ_genotype CC/and JJ_control NNS_animal | 1 NNS/males CC/and NNS/females
NP_place -> 3 DT/the NN_tissue | 4 DT/the JJ_age NN_tissue | 4 DT/the _organ | 2 DT/the JJ_age _organ |
    3 NP_animal_pl | 3 NP_cell_pl |
    1 (NP DT/the NN_tissue) CC/and (NP DT/the NN_tissue) | 1 (NP DT/the _organ) CC/and (NP NN_tissue) |
    1 DT/the NN_tissue , NN_tissue CC/and NN_tissue | 1 (NP DT/the JJ_layer NN_layer) (PP IN/of (NP DT/the NN_tissue))
_organ -> 3 NN/bone NN/marrow | 3 NN/limb NN/bud | 3 JJ/spinal NN/cord | 3 JJ/neural NN/tube | 2 NN/growth NN/plate |
    2 NN/hair NN/follicle | 2 JJ/optic NN/nerve | 2 JJ/inner NN/ear | 2 JJ/skeletal NN/muscle |
    2 JJ/adipose NN/tissue | 2 JJ/olfactory NN/bulb | 2 NN/lymph NN/node

# Genes, and what is measured of them
NP_gene -> 8 NP_gene_sg | 1 NN_gene CC/and NN_gene
NP_gene_sg -> 8 NN_gene | 3 DT/the NN_gene NN_product | 1 (NP DT/the NN_product) (PRN -LRB- (NP NN_gene) -RRB-)
NP_topic -> 10 NP_gene_sg | 2 (NP NN_gene) , (NP (NP DT/a NN_regulator) (PP IN/of (NP NN_process))) , |
    2 (NP NN_gene) , (SBAR (WHNP WDT/which) (S (VP VBZ_affect (NP NN_process)))) ,
NP_signal -> 1 NP_signal_#
NP_signal_sg -> 2 NN_gene | 3 (NP NN/expression) (PP IN/of NP_gene) | 2 NN_gene NN_expression
NP_signal_pl -> 3 NN_gene NNS_transcript | 2 JJ_abundance NN_gene NNS_transcript |
    2 (NP NN_gene) CC/and (NP NN_gene NNS_transcript)
NP_measure -> 1 NP_measure_#
NP_measure_sg -> 4 (NP DT/the NN_level) (PP IN/of NP_gene) | 4 (NP DT/the NN_count) (PP IN/of NP_cell_pl) |
    1 (NP DT/the NN_count) (PP IN/of (NP NP_cell_pl CC/and (NP NNS_cell)))
NP_measure_pl -> 5 (NP DT/the? NNS_level) (PP IN/of NP_gene) | 2 NN_gene NNS_level |
    2 (NML NN_gene CC/and NN_gene) NNS_level |
    2 (NP (NP NNS_level) (PP IN/of (NP NN_gene))) CC/and (NP (NP NNS_count) (PP IN/of (NP NNS_cell)))
NP_measured -> 5 (NP DT/the N#_level) (PP IN/of NP_gene) (PP IN/in NP_place) |
    3 (NP DT/the NN_count) (PP IN/of NP_cell_pl) (PP IN/in NP_place) | 2 (NP NN_gene NNS_level) (PP IN/in NP_place) |
    3 (NP NN/expression) (PP IN/of NP_gene) (PP IN/in NP_place) | 2 (NP NN_gene NNS_transcript) (PP IN/in NP_place)
NP_role -> 4 (NP DT/the NN_role) (PP IN/of NP_gene) (PP IN/in NP_process) |
    3 (NP DT/the NNS_effect) (PP IN/of NP_agent) (PP IN/on NP_process) |
    2 (NP DT/the NN_binding) (PP IN/between (NP NN_gene CC/and NN_gene))

# Causes, processes, defects
NP_cause_sg -> 5 (NP NN_loss) (PP IN/of NP_gene) | 1 NN_gene | 2 (NP NN_loss) (PP IN/of (NP NN_gene)) (PP IN/in NP_place) |
    2 (NP NN/exposure) (PP TO/to NP_agent) | 1 (NP DT/a NN_mutation) (PP IN/in NP_gene)
NP_cause_pl -> 4 (NP NNS_mutation) (PP IN/in NP_gene) | 2 DT/these NNS_mutation | 2 JJ_abundance NN_gene NNS_level
NP_process -> 2 NN_process | 3 NN_tissue NN_process | 3 JJ_age NN_tissue NN_process | 5 (NML _organ) NN_process |
    2 (NML NN_tissue CC/and NN_tissue) NN_process | 1 (NP DT/the NN_process) (PP IN/of NP_cell_pl) |
    2 NN_process CC/and NN_process | 2 JJ_process NN_process
NP_defect -> 4 JJ_severe? NN_disease | 4 (NP JJ_severe NNS_defect) (PP IN/in NP_process) |
    4 (NP JJ_severe? NNS_defect) (PP IN/in (NP DT/the _organ)) | 2 (NP DT/a JJ_severe NN_drop) (PP IN/in NP_measure) |
    2 JJ_severe , JJ_organ NNS_defect | 2 NN_disease CC/and NN_disease | 1 (ADJP RB_much JJ_severe) JJ_organ NNS_defect

# Agents, doses, methods, results, headings
NP_agent -> 6 NN_chem | 1 (NP NN_chem) (PRN -LRB- NP_dose -RRB-) | 1 NP_dose (PP IN/of (NP NN_chem)) |
    1 NN_chem CC/or NN_chem | 1 (NP DT/an NN/antibody) (PP IN/against (NP NN_gene))
NP_dose -> 3 (NP CD_number NN_mass) (PP SYM// (NP NN/kg)) | 2 CD_number NN_mass
NP_time -> 4 CD_small NNS_time | 2 (QP RB/approximately CD_number) NNS_time
NP_temperature -> 3 CD_temperature NNS/degrees | 2 NN/room NN/temperature
NP_stage -> 1 NN_stage
NP_method -> 4 NN_method | 3 JJ_method NN_method | 2 NN_method CC/and NN_method |
    1 (NP DT/a NN_assay) (PP IN/for (NP NN_process))
NP_result_sg -> 3 DT/this NN_result | 2 PRP$/our NN_result | 1 (NP NN_method) (PP IN/of NP_slides_pl)
NP_result_pl -> 4 DT/these NNS_result | 3 PRP$/our NNS_result | 1 (NP DT/the NNS_result) (PP IN/of (NP DT/this NN_assay))
NP_heading -> 3 (NP NN_heading) (PP IN/of NP_modified) | 3 (NP NN_method) (PP IN/of NP_slides_pl) |
    2 (NP NN_heading) (PP IN/of NP_gene) (PP IN/in NP_place)
PRN -> 3 -LRB- (NP NN/Figure CD_panel) -RRB- | 1 -LRB- (S (NP NN/P) (VP SYM/< (NP CD_p))) -RRB-
"""

# ---------------------------------------------------------------------------------------------------------------------
# The words of each class, frequent ones first; those after the bar are held out for test. No held-out word decides where
# a PP goes, or nobody could tell. N_animal has the words of NN_animal and NNS_animal, V_treat those of VB, VBD, VBN, ...

LEXICON = """
N_animal: mouse embryo animal rat littermate pup newborn chimera fetus sibling male female | hamster gerbil neonate
N_cell: cell neuron fibroblast oocyte hepatocyte myoblast osteoblast macrophage lymphocyte astrocyte keratinocyte
    progenitor chondrocyte adipocyte precursor | melanocyte podocyte thymocyte
N_tissue: heart lung brain kidney retina liver lens muscle skin spleen thymus cortex hippocampus cerebellum testis ovary
    pancreas placenta cochlea skeleton palate intestine aorta | cornea uterus thyroid tongue
N_layer: layer epithelium zone compartment region | mesenchyme
N_sample: section extract culture sample slice explant | biopsy smear
N_gene: Fgf8 Pax6 Shh Bmp4 Sox9 Wnt3a Notch1 p53 Msx2 Hoxa13 Gli3 Nkx2.5 Tbx5 Gata4 Myf5 Runx2 Otx2 Brca1 Kit Egfr Lhx2
    Foxg1 Dlx5 Isl1 Six1 Eya1 Pitx2 Ngn2 Sry Wt1 Hnf4a Pdx1 Pten Stat3 Smad4 Rad51 Bcl2 Jag1 Rarb Apoe
    | Twist1 Tgfb2 Cdx2 Mitf Nodal Lefty1 Snai2 Hand2
N_product: protein gene receptor promoter allele kinase locus enhancer ligand | transgene isoform
N_transcript: transcript mRNA fragment variant | amplicon
N_expression: expression staining activity immunoreactivity | fluorescence
N_chem: tamoxifen doxycycline insulin glucose dexamethasone ethanol saline forskolin collagenase BrdU cisplatin leptin
    heparin estradiol trypsin rapamycin colchicine | nocodazole ketamine melatonin warfarin
N_level: level amount concentration quantity | abundance
N_count: number proportion density size percentage fraction | frequency
N_process: development differentiation proliferation apoptosis migration growth survival adhesion meiosis myelination
    neurogenesis ossification maturation patterning metabolism degeneration | angiogenesis gliogenesis regeneration
N_disease: anemia obesity diabetes ataxia glaucoma deafness arthritis infertility fibrosis inflammation | jaundice edema
N_defect: defect abnormality malformation lesion tumor cyst | anomaly
N_drop: decrease reduction increase rise | shortfall; N_difference: difference change | discrepancy
N_mutation: mutation deletion insertion translocation | inversion
N_loss: loss inactivation deletion ablation overexpression activation | depletion
N_regulator: regulator marker inhibitor target activator mediator | determinant
N_role: role function importance | involvement; N_effect: effect influence impact
N_binding: interaction binding association | synergy
N_method: microscopy immunohistochemistry PCR sequencing electrophoresis cytometry genotyping | spectrometry chromatography
N_assay: assay experiment test screen | protocol
N_result: result finding experiment observation analysis | measurement
N_idea: idea hypothesis notion view | conclusion
N_heading: generation phenotype characterization analysis | histology; N_mass: mg ng ml mM
N_time: day hour week minute month; N_period: birth weaning adulthood | puberty
N_stage: E10.5 E12.5 E14.5 P21 E9.5 P0 E18.5 P7 | E11.5 P14
V_treat: treat inject incubate stain stimulate label wash supplement
V_obtain: isolate collect harvest obtain purify derive prepare recover
V_find: detect find observe identify visualize localize; V_measure: measure quantify estimate score record monitor
V_study: examine study analyze characterize investigate describe
V_conclude: conclude find hypothesize propose report | speculate; V_keep: keep maintain store
V_show: show suggest indicate demonstrate reveal confirm imply | establish
V_support: support favor strengthen | corroborate
V_affect: regulate impair promote inhibit control affect block delay induce enhance disrupt accelerate | abolish trigger
V_lead: lead contribute; V_exhibit: exhibit show display develop have | acquire; V_survive: survive live persist
V_change: increase decrease decline double | diminish; V_lack: lack carry express
JJ_genotype: mutant wild-type transgenic homozygous heterozygous knockout chimeric null diabetic | albino hemizygous
JJ_control: control wild-type normal untreated unaffected | uninjured
JJ_cell: primary cultured epithelial endothelial hematopoietic sensory mature immature apoptotic | pluripotent quiescent
JJ_signed: positive negative deficient; JJ_age: developing adult embryonic neonatal fetal postnatal | aging
JJ_layer: outer ventral dorsal ventricular basal marginal | subventricular
JJ_prepared: frozen fixed serial sagittal coronal | embedded; JJ_abundance: high low abundant detectable | elevated
JJ_severe: severe mild progressive early chronic subtle | lethal
JJ_organ: skeletal cardiac renal neural vascular | craniofacial
JJ_state: viable fertile normal sterile healthy hyperactive | obese
JJ_process: normal early axonal synaptic neuronal embryonic | hepatic
JJ_needed: essential necessary dispensable sufficient critical | indispensable
JJ_notable: significant obvious clear major known; JJ_similar: similar identical comparable
FW_vivo: vivo vitro utero
JJ_likely: likely possible unlikely plausible; JJ_method: quantitative confocal electron fluorescent automated
JJR_size: smaller larger heavier weaker slower | leaner; JJR_high: higher lower greater
RB_link: however moreover furthermore interestingly surprisingly therefore thus notably | unexpectedly
RB_next: next then first also subsequently
RB_manner: strongly directly specifically rapidly transiently selectively partially repeatedly | robustly
RB_much: significantly much slightly considerably clearly | substantially; RB_locus: upstream downstream
RB_daily: daily overnight twice again separately; RB_early: early later transiently
CC_clause: and but; MD_may: may might could can; IN_although: although because whereas since; IN_period: until after
DT_most: most some all; CD_small: two three four five six eight ten
CD_number: 10 20 50 100 12 15 30 250 1.5 0.5; CD_percent: 25 40 60 80 3.5; CD_temperature: 4 37 65
CD_panel: 1 2A 3B 4 5C 6 2B 3 7A; CD_p: 0.05 0.01 0.001
"""

# Forms that the spelling rules of `inflect` would get wrong.
IRREGULAR = {
    "NNS": {"mouse": "mice", "analysis": "analyses", "locus": "loci"},
    "VBZ": {"have": "has"},
    "VBD": {"find": "found", "keep": "kept", "lead": "led", "have": "had"},
    "VBN": {"find": "found", "keep": "kept"},
}


def read_rules(text: str) -> dict[str, list[tuple[float, list]]]:
    """{symbol: [(weight, items), ...]}. An item is (symbol or label, items of its own if it is a bracket, optional)."""
    rules: dict[str, list] = {}
    text = re.sub("^#.*\n", "", text, flags=re.MULTILINE)
    for head, ways in re.findall(r"^(\S+) ->((?:.*\n)(?: .*\n)*)", text, flags=re.MULTILINE):
        for way in ways.split("|"):
            weight, body = way.split(maxsplit=1)
            numbers = ("sg", "pl") if "#" in head + body else ("",)
            for number in numbers:
                share = float(weight) if "#" in head else float(weight) / len(numbers)
                rules.setdefault(_agree(head, number), []).append((share, _read_items(_agree(body, number))))
    return rules


def _agree(text: str, number: str) -> str:
    noun, verb = ("NN", "VBZ") if number == "sg" else ("NNS", "VBP")
    return text.replace("N#", noun).replace("V#", verb).replace("#", number)


def _read_items(body: str) -> list:
    stack: list[list] = [[]]
    for token in re.findall(r"\)|[^\s)]+", body):
        if token.startswith("("):
            items: list = []
            stack[-1].append((token[1:], items, False))
            stack.append(items)
        elif token == ")":
            stack.pop()
        else:
            stack[-1].append((token.removesuffix("?"), None, token.endswith("?")))
    return stack[0]


def read_lexicon(text: str) -> dict[str, tuple[list[str], list[str]]]:
    """{class: (its words, those held out for test)}."""
    lexicon = {}
    for name, words in re.findall(r"(\w+): ([^:;]*)(?:;|\n(?! )|$)", text):
        known, _, held_out = words.partition("|")
        lexicon[name] = known.split(), held_out.split()
    return lexicon


GRAMMAR = read_rules(RULES)
CLASSES = read_lexicon(LEXICON)


def inflect(word: str, tag: str) -> str:
    """The form of a noun or a verb that a Penn tag asks for: inflect("carry", "VBZ") is "carries"."""
    if word in IRREGULAR.get(tag, {}):
        return IRREGULAR[tag][word]
    if tag in ("NNS", "VBZ", "VBD", "VBN"):
        stem = re.sub("(?<=[^aeiou])y$", "i", word)  # carry, carries; but assay, assays
        if tag in ("VBD", "VBN"):
            return stem.removesuffix("e") + "ed"
        return stem + ("es" if stem != word or re.search("(s|x|z|ch|sh)$", word) else "s")
    return word.removesuffix("e") + "ing" if tag == "VBG" else word


# ---------------------------------------------------------------------------------------------------------------------
# From rules to sentences

def heights() -> dict[str, int]:
    """How many levels of rules the shallowest derivation of each symbol needs. Told that, no derivation can get stuck."""
    height = {symbol: float("inf") for symbol in GRAMMAR}
    while True:
        lower = {symbol: 1 + min(_height(items, height) for _, items in ways) for symbol, ways in GRAMMAR.items()}
        if lower == height:
            return height
        height = lower


def _height(items: list, height: dict[str, int]) -> int:
    return max(_height(inner, height) if inner else height.get(symbol, 0) for symbol, inner, _ in items)


HEIGHTS = heights()


def generate(rng: random.Random, held_out: bool = False) -> Tree:
    """One sentence. With `held_out`, the words that are reserved for test may occur."""
    words: list[str] = []
    tags: list[str] = []
    spans: list[list] = []

    def expand(symbol: str, budget: int) -> None:
        ways = [(weight, items) for weight, items in GRAMMAR[symbol] if _height(items, HEIGHTS) < budget]
        [(_, items)] = rng.choices(ways, [weight for weight, _ in ways])
        label = symbol.split("_")[0]
        same = len(items) == 1 and items[0][1] is None and items[0][0].split("_")[0] == label
        bracket("" if same else label, items, budget - 1)

    def bracket(label: str, items: list, budget: int) -> None:
        if label:
            span = [label, len(words), None]
            spans.append(span)
        for symbol, inner, optional in items:
            if optional and rng.random() < 0.5:
                continue
            if inner is not None:
                bracket(symbol, inner, budget)
            elif symbol in GRAMMAR:
                expand(symbol, budget)
            else:
                tag, word = leaf(symbol)
                tags.append(tag)
                words.append(word)
        if label:
            span[2] = len(words)

    def leaf(symbol: str) -> tuple[str, str]:
        if "_" not in symbol:  # IN/with, or a mark, which is its own tag
            tag, _, word = symbol.partition("/")
            return tag, unescape(word or tag)
        tag, name = symbol.split("_")
        prefix = "N" if tag in ("NN", "NNS") else "V" if tag.startswith("VB") else tag
        known, reserved = CLASSES[f"{prefix}_{name}"]
        if held_out and reserved and rng.random() < HELD_OUT_SHARE:
            return tag, inflect(rng.choice(reserved), tag)
        # Frequencies fall with the rank, as in any language: some words are rare in 1,000 sentences.
        return tag, inflect(rng.choices(known, [1 / (rank + 5) for rank in range(len(known))])[0], tag)

    expand("_sentence", BUDGET)
    for position, word in enumerate(words[:-1]):
        if word == "a" and re.match("[aeiouAEIOU]", words[position + 1]):
            words[position] = "an"
    if re.fullmatch("[a-z]+(-[a-z]+)*", words[0]):  # p53 and mRNA stay as they are
        words[0] = words[0][0].upper() + words[0][1:]
    return Tree(words, tags, [tuple(span) for span in spans])


def sample(seed: int = 0) -> dict[str, list[dict[str, str]]]:
    """The rows of every split, no sentence twice, the same ones for the same seed."""
    splits: dict[str, list] = {}
    seen = set()
    for split, size in SIZES.items():
        rng = random.Random(f"{split} {seed}")
        rows = splits[split] = []
        while len(rows) < size:
            tree = generate(rng, held_out=split == "test")
            sentence = " ".join(tree.words)
            silly = re.search(r"\b(\S+) (and|or|,) \1\b|sing .* using", sentence)  # lung and lung sections
            if len(tree.words) in WORDS and not silly and sentence.lower() not in seen:
                seen.add(sentence.lower())
                rows.append({"input": sentence, "output": write_penn(tree)})
    return splits


def main() -> None:
    parser = CommandLine(prog="python data/grammar.py", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder to write (default: data/craft, with seed 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which sentences (default: 0, the committed ones)")
    options = parser.parse_args()

    if options.seed and not options.out:                    # data/craft has pseudolabels of the committed sentences
        raise DataError(f"--seed {options.seed}: expected --out DIR beside it")
    out = options.out or ROOT / "data" / "craft"
    task = out / "task.json"
    others = [] if task.exists() else list(out.glob("*.jsonl"))
    if others or task.exists() and task.read_bytes() != TASK.encode():
        raise DataError(f"{out}: expected an empty folder or one of grammar.py's, found data that it did not make; choose another --out")
    splits = sample(options.seed)
    out.mkdir(parents=True, exist_ok=True)
    task.unlink(missing_ok=True)                            # it makes this a data folder: it goes first and comes last
    for split, rows in splits.items():
        write_jsonl(out / f"{split}.jsonl", rows)
    write_atomically(task, TASK)
    for split, rows in splits.items():
        lengths = [len(row["input"].split(" ")) for row in rows]
        print(f"{split:10} {len(rows):5,} sentences of {min(lengths)} to {max(lengths)} words, "
              f"{sum(lengths) / len(lengths):.1f} on average")
    words = {word.lower() for rows in splits.values() for row in rows for word in row["input"].split(" ")}
    print(f"{len(words):,} different words in {out}")


if __name__ == "__main__":
    run_command(main)
