//! What the shop of the demo sells.

/// A product. Its price is in cents of the US dollar.
pub(crate) struct Good {
    pub name: &'static str,
    pub description: &'static str,
    pub price_minor: i64,
    /// The pieces that are left once all orders are fulfilled.
    pub left: u64,
    /// At how many pieces the stock is low.
    pub threshold: u64,
}

impl Good {
    /// The id of the product, such as `teapot-for-four`.
    pub(crate) fn product_id(&self) -> String {
        self.name.to_lowercase().replace(' ', "-")
    }
}

const fn good(
    name: &'static str,
    description: &'static str,
    price_minor: i64,
    left: u64,
    threshold: u64,
) -> Good {
    Good { name, description, price_minor, left, threshold }
}

/// Everything for kitchen, desk, garden and travel.
pub(crate) const GOODS: [Good; 36] = [
    good("Teapot for four", "Round, of stoneware, with a lid that stays on", 3_490, 24, 10),
    good("Tea strainer", "Fine steel mesh on a long handle", 890, 60, 20),
    good("Green tea", "Sencha of the first harvest, 100 g of loose leaves", 1_250, 6, 15),
    good("Black tea", "Assam, strong and malty, 250 g of loose leaves", 990, 80, 15),
    good("Espresso cups", "Two cups of porcelain with saucers", 2_200, 18, 8),
    good("Coffee grinder", "Grinds by hand, with a steel burr", 5_900, 12, 5),
    good("Coffee beans", "Arabica from Ethiopia, light roast, 500 g", 1_690, 9, 20),
    good("Cast iron pan", "26 cm across, for every stove and the oven", 4_800, 15, 5),
    good("Bread knife", "Serrated, with a handle of walnut", 3_950, 22, 6),
    good("Paring knife", "A short blade for fruit and vegetables", 1_450, 40, 10),
    good("Cutting board", "End grain of oak, 40 by 30 cm", 5_250, 11, 4),
    good("Mixing bowl", "Steel, 3 litres, with a base that does not slip", 2_390, 27, 8),
    good("Kitchen scale", "Weighs to the gram, up to 5 kg", 2_990, 3, 6),
    good("Linen apron", "Washed linen with two pockets", 3_200, 19, 5),
    good("Fountain pen", "A steel nib, medium, with a converter for ink", 4_200, 14, 5),
    good("Blue ink", "50 ml, washable", 980, 35, 10),
    good("Dotted notebook", "A5, 192 numbered pages that lie flat", 1_890, 70, 25),
    good("Desk lamp", "Warm light, dimmable, with an arm of brass", 8_900, 8, 3),
    good("Pencil set", "Twelve pencils from 6B to 4H", 1_590, 44, 12),
    good("Wall calendar", "Twelve landscapes in woodcut", 2_150, 2, 10),
    good("Letter opener", "Brass, made in one piece", 1_790, 16, 4),
    good("Watering can", "5 litres, of zinc, with a fine rose", 3_690, 13, 4),
    good("Garden shears", "Forged, for branches up to 20 mm", 4_450, 10, 4),
    good("Herb seeds", "Basil, parsley, chives, thyme and dill", 790, 120, 30),
    good("Clay pots", "Three pots with saucers, 12 cm", 1_650, 30, 10),
    good("Garden gloves", "Goatskin, with long cuffs", 2_450, 26, 8),
    good("Bird feeder", "Of larch, for seeds and tallow balls", 2_890, 4, 5),
    good("Hammock", "Cotton, for two, with ropes", 7_900, 7, 3),
    good("Travel mug", "Keeps 400 ml hot for six hours", 2_690, 33, 10),
    good("Canvas backpack", "22 litres, waxed, with a pocket for a laptop", 9_800, 9, 4),
    good("Rain jacket", "Light, packs into its own pocket", 12_900, 8, 3),
    good("Wool blanket", "Lambswool, 130 by 180 cm", 8_400, 12, 4),
    good("Head torch", "300 lumens, charged over USB", 3_350, 17, 6),
    good("Pocket compass", "Brass, with a lid and a sundial", 2_750, 21, 5),
    good("Picnic basket", "Of willow, with plates and glasses for four", 11_500, 5, 5),
    good("Folding chair", "Beech and canvas, carries 110 kg", 6_700, 10, 4),
];
