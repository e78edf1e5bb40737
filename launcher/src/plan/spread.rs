//! How many processes each node gets when `--engines-per-node` says it.

use super::PlanError;

/// A node and how many processes it has room for, unless nobody says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, as the hostfile or the batch system has it.
    pub name: String,
    /// Its slots.
    pub slots: usize,
}

/// The processes of each node, the controller among those of the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// Name, and number of processes; no name where everything stays on this machine.
    pub nodes: Vec<(Option<String>, usize)>,
    /// Whether no node gets more than its slots.
    pub fits: bool,
}

impl Spread {
    /// Deals `engines`, or as many as are allowed, and the controller to the fewest nodes that do, evenly: as srun does
    /// with tasks and `--distribution=block`. Without `nodes` this machine is the only one, which has `slots`.
    ///
    /// # Errors
    /// [`PlanError::TooFewNodes`]
    pub fn new(engines: Option<u32>, per_node: u32, nodes: &[Node], slots: usize) -> Result<Self, PlanError> {
        let there = nodes.len().max(1);
        let most = u64::from(per_node) * there as u64;
        let engines = engines.map_or(most, u64::from);
        let needed = engines.div_ceil(u64::from(per_node));
        let Some(used) = usize::try_from(needed).ok().filter(|&needed| needed <= there) else {
            return Err(PlanError::TooFewNodes { engines, per_node, needed, there });
        };
        let processes = usize::try_from(engines).unwrap_or(usize::MAX).saturating_add(1);
        let shares = (0..used).map(|node| processes / used + usize::from(node < processes % used));
        let room = |index: usize| nodes.get(index).map_or(slots, |node| node.slots);
        let fits = shares.clone().enumerate().all(|(index, share)| share <= room(index));
        let name = |index: usize| nodes.get(index).map(|node: &Node| node.name.clone());
        Ok(Self { nodes: shares.enumerate().map(|(index, share)| (name(index), share)).collect(), fits })
    }

    /// Number of engines.
    #[must_use]
    pub fn engines(&self) -> u32 {
        let processes: usize = self.nodes.iter().map(|(_, share)| share).sum();
        u32::try_from(processes - 1).unwrap_or(u32::MAX)
    }

    /// `a:5,b:4`, the form that both MPIs read; nothing where no node has a name.
    pub(super) fn hosts(&self) -> Option<String> {
        let places: Option<Vec<String>> =
            self.nodes.iter().map(|(name, share)| Some(format!("{}:{share}", name.as_ref()?))).collect();
        places.map(|places| places.join(","))
    }

    /// The same for srun, which takes the first nodes of the job and deals tasks out as is done here.
    pub(super) fn srun_flags(&self) -> [String; 2] {
        [format!("--nodes={}", self.nodes.len()), "--distribution=block".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(engines: Option<u32>, per_node: u32, nodes: usize) -> Result<Spread, PlanError> {
        let nodes: Vec<Node> = (0..nodes).map(|index| Node { name: format!("n{index}"), slots: 4 }).collect();
        Spread::new(engines, per_node, &nodes, 4)
    }

    #[test]
    fn no_node_gets_more_than_its_engines_and_one_the_controller_too() {
        for (engines, per_node, nodes, shares) in [
            (None, 4, 3, vec![5, 4, 4]),
            (None, 1, 1, vec![2]),
            (Some(5), 3, 4, vec![3, 3]),
            (Some(6), 3, 4, vec![4, 3]),
            (Some(1), 8, 2, vec![2]),
            (Some(11), 4, 3, vec![4, 4, 4]),
        ] {
            let found = spread(engines, per_node, nodes).unwrap();
            assert_eq!(found.nodes.iter().map(|(_, share)| *share).collect::<Vec<_>>(), shares);
            let controllers = |index| usize::from(index == 0);
            let engines_on = |(index, share): (usize, &usize)| share - controllers(index);
            assert!(shares.iter().enumerate().map(engines_on).all(|engines| engines <= per_node as usize));
            assert_eq!(found.engines() as usize + 1, shares.iter().sum::<usize>());
            assert_eq!(found.fits, shares.iter().all(|&share| share <= 4));
        }
        assert_eq!(spread(None, 4, 2).unwrap().hosts().unwrap(), "n0:5,n1:4");
        assert_eq!(spread(None, 4, 2).unwrap().srun_flags(), ["--nodes=2", "--distribution=block"]);
    }

    #[test]
    fn this_machine_alone_has_no_name() {
        assert_eq!(spread(None, 3, 0).unwrap(), Spread { nodes: vec![(None, 4)], fits: true });
        assert_eq!(spread(Some(2), 3, 0).unwrap().hosts(), None);
    }

    #[test]
    fn too_few_nodes_are_counted() {
        assert_eq!(
            spread(Some(9), 2, 3).unwrap_err().to_string(),
            "9 engines, at most 2 on each host, need 5 hosts, and there is room on 3: ask for fewer engines, for more \
             hosts, or for more engines on each with --engines-per-node"
        );
    }
}
