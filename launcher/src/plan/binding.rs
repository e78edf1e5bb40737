//! Whether the user has chosen how mpirun binds ranks to cores.

/// Flags of mpirun that bind, without their dashes (mpirun(1) of Open MPI 4 and 5).
const FLAGS: [&str; 9] = [
    "bind-to",
    "bind-to-core",
    "bind-to-socket",
    "cpu-set",
    "cpu-list",
    "rankfile",
    "rf",
    "cpus-per-proc",
    "cpus-per-rank",
];

/// Open MPI's parameters that bind, those of version 5 without their prefix, too.
const PARAMETERS: [&str; 3] = ["hwloc_base_binding_policy", "hwloc_default_binding_policy", "hwloc_base_cpu_list"];

/// What variables of Open MPI 4 and 5 begin with.
const PREFIXES: [&str; 2] = ["OMPI_MCA_", "PRTE_MCA_"];

/// Whether flags or variables choose a binding; a variable that says `none` leaves it to pxcluster.
pub fn is_chosen(flags: &[String], vars: impl IntoIterator<Item = (String, String)>) -> bool {
    let by_flag = flags.iter().any(|word| {
        let name = word.trim_start_matches('-').split('=').next().unwrap_or_default();
        (word.starts_with('-') && FLAGS.contains(&name)) || PARAMETERS.contains(&word.as_str()) || lists_cores(word)
    });
    let by_variable = |(name, value): (String, String)| {
        let parameter = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
        parameter.is_some_and(|name| PARAMETERS.contains(&name) && value != "none" || lists_cores(&value))
    };
    by_flag || vars.into_iter().any(by_variable)
}

/// A mapping such as `socket:PE=2`, which is a binding as well.
fn lists_cores(mapping: &str) -> bool {
    let modifiers = mapping.split([':', ',']).skip(1);
    modifiers
        .map(str::to_ascii_lowercase)
        .any(|modifier| modifier.starts_with("pe=") || modifier.starts_with("pe-list="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_variables_that_bind_are_known() {
        for (flags, variable, chosen) in [
            ("", "PATH=/bin", false),
            ("--bind-to core", "", true),
            ("-bind-to none", "", true),
            ("--map-by ppr:2:node:PE=4", "", true),
            ("--map-by slot", "", false),
            ("--mca hwloc_base_binding_policy core", "", true),
            ("--mca btl tcp,self --host a:4,pe1:2", "", false),
            ("", "OMPI_MCA_hwloc_base_binding_policy=none", false),
            ("", "OMPI_MCA_hwloc_base_binding_policy=core", true),
            ("", "PRTE_MCA_hwloc_default_binding_policy=core", true),
            ("", "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe", false),
            ("", "OMPI_MCA_rmaps_base_mapping_policy=socket:pe=2", true),
        ] {
            let words: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
            let vars = variable.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(is_chosen(&words, vars), chosen, "{flags} {variable}");
        }
    }
}
