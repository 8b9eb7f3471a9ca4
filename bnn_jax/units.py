"""Unit conversions. Inside the package energies are eV and lengths Angstrom; conversion happens at the border."""

# CODATA 2018; the calorie is the thermochemical one (4.184 J).
EV_PER_HARTREE = 27.211386245988
EV_PER_KCAL_PER_MOL = 0.04336410390059322
EV_PER_KJ_PER_MOL = 0.010364269656262175
ANGSTROM_PER_BOHR = 0.529177210903
GPA_PER_EV_PER_ANGSTROM3 = 160.21766208
BOLTZMANN_EV_PER_KELVIN = 8.617333262145179e-05

ENERGY_UNITS_EV = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": EV_PER_KCAL_PER_MOL,
    "kJ/mol": EV_PER_KJ_PER_MOL,
    "Hartree": EV_PER_HARTREE,
}
"""Factor that turns an energy in the named unit into eV."""

LENGTH_UNITS_ANGSTROM = {"Angstrom": 1.0, "Bohr": ANGSTROM_PER_BOHR, "nm": 10.0}
"""Factor that turns a length in the named unit into Angstrom."""

STRESS_UNITS_EV_PER_ANGSTROM3 = {
    "eV/Angstrom^3": 1.0,
    "GPa": 1 / GPA_PER_EV_PER_ANGSTROM3,
    "kbar": 0.1 / GPA_PER_EV_PER_ANGSTROM3,
    "bar": 1e-4 / GPA_PER_EV_PER_ANGSTROM3,
}
STRESS_UNITS_EV_PER_ANGSTROM3 |= {f"-{unit}": -factor for unit, factor in STRESS_UNITS_EV_PER_ANGSTROM3.items()}
"""Factor that turns a stress in the named unit into eV/Angstrom^3, positive under tension.

A minus in front is for the opposite sign, positive under compression, as VASP prints it (in kbar: ``-kbar``).
"""
